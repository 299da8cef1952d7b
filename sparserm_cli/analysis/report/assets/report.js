// Draws every figure into the element of its name; colours of text and grid come from the style sheet.
const figures = JSON.parse(document.getElementById("figures").textContent);
// The buttons are named one by one: plotly's own choice has some that send the figure to a server.
const options = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
for (const [name, figure] of Object.entries(figures)) {
  const place = document.getElementById(name);
  if (place) Plotly.newPlot(place, figure.data, figure.layout, options);
}
