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
  const ids = ["search", "side", "named", "sort", "shown"];
  const [search, side, named, sort, shown] = ids.map((id) => document.getElementById(id));
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const size = (row) => {
    const value = Number(row.dataset[sort.value]);
    return sort.value === "effect" ? -Math.abs(value) : sort.value === "q" || sort.value === "order" ? value : -value;
  };
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (side.value === "" || row.dataset.side === side.value) && (named.value === "" || row.dataset.named === named.value);
      row.hidden = !fits || !texts.get(row).includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    rows.sort((a, b) => (size(a) || 0) - (size(b) || 0)).forEach((row) => list.append(row));
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  document.querySelector(".tools").hidden = false;
  for (const input of [search, side, named, sort]) input.addEventListener("input", update);
  update();
  // A link to a direction opens its card, also where a filter hides it.
  const open = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row || !row.matches("details.direction")) return;
    row.hidden = false;
    row.open = true;
    row.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();
}
