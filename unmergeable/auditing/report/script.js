"use strict";
// The page is complete without this: it adds quicker tooltips and sorting to the heat map.
(() => {
  const heat = document.getElementById("heat");
  if (!heat) return;
  for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  for (const cell of heat.querySelectorAll("tbody td[title]")) {
    cell.dataset.detail = cell.title; // a browser would show its own tooltip as well
    cell.removeAttribute("title");
  }
  const show = (event) => {
    const cell = event.target.closest("[data-detail]");
    tip.hidden = !cell;
    if (!cell) return;
    tip.textContent = cell.dataset.detail;
    const box = cell.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(box.left, room)) + scrollX}px`;
    const above = box.top - tip.offsetHeight - 6;
    tip.style.top = `${(above > 0 ? above : box.bottom + 6) + scrollY}px`;
  };
  heat.addEventListener("mouseover", show);
  heat.addEventListener("click", show);
  heat.addEventListener("mouseleave", () => { tip.hidden = true; });
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  const body = heat.querySelector("tbody.body");
  const order = [...body.rows];
  const heads = [...heat.querySelectorAll(".heads th")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const worth = (row) => {
      const found = parseFloat(row.cells[column].textContent);
      return Number.isNaN(found) ? -1 : found;
    };
    button.addEventListener("click", () => {
      const sorted = column > 0 && !head.hasAttribute("aria-sort");
      for (const other of heads) other.removeAttribute("aria-sort");
      if (sorted) head.setAttribute("aria-sort", "descending");
      body.append(...(sorted ? [...order].sort((a, b) => worth(b) - worth(a)) : order));
    });
  });
})();
