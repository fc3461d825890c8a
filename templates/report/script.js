"use strict";
for (const grid of document.querySelectorAll("[role=grid]")) {
  const rows = [...grid.tBodies[0].rows].map(row => [...row.querySelectorAll("td")]);
  const told = document.getElementById(grid.dataset.told);
  const tell = cell => { told.textContent = cell ? cell.title : ""; };
  const place = cell => {
    const y = rows.findIndex(row => row.includes(cell));
    return [y, y < 0 ? -1 : rows[y].indexOf(cell)];
  };
  grid.addEventListener("mouseover", event => tell(event.target.closest("td")));
  grid.addEventListener("mouseleave", () => tell(null));
  grid.addEventListener("focusin", event => tell(event.target.closest("td")));
  grid.addEventListener("keydown", event => {
    const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
                  Home: [0, -1e6], End: [0, 1e6], PageUp: [-8, 0], PageDown: [8, 0]}[event.key];
    const [y, x] = place(event.target);
    if (!move || y < 0) return;
    event.preventDefault();
    const row = rows[Math.min(Math.max(y + move[0], 0), rows.length - 1)];
    const next = row[Math.min(Math.max(x + move[1], 0), row.length - 1)];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("section > .blocks > details")) one.open = true; });
