// Search, filter and sort of the directions, and the switch between linear and logarithmic axes.
"use strict";
for (const button of document.querySelectorAll("button.toggle")) {
  button.addEventListener("click", () => {
    const [linear, logarithmic] = button.parentElement.querySelectorAll(":scope > div");
    const now = logarithmic.hidden;
    logarithmic.hidden = !now;
    linear.hidden = now;
    button.textContent = now ? "linear axes" : "logarithmic axes";
  });
}
const list = document.getElementById("list");
if (list) {
  const rows = [...list.querySelectorAll("details.direction")];
  const [search, side, sort, shown] = ["search", "side", "sort", "shown"].map((id) => document.getElementById(id));
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const size = (row) => {
    const value = Number(row.dataset[sort.value]);
    return sort.value === "weight" ? -Math.abs(value) : sort.value === "q" || sort.value === "order" ? value : -value;
  };
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !texts.get(row).includes(wanted) || (side.value !== "" && row.dataset.side !== side.value);
      count += row.hidden ? 0 : 1;
    }
    rows.sort((a, b) => (size(a) || 0) - (size(b) || 0)).forEach((row) => list.append(row));
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  document.querySelector(".tools").hidden = false;
  for (const input of [search, side, sort]) input.addEventListener("input", update);
  update();
}
