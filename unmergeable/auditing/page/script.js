"use strict";
// A page is complete without this: it adds quicker tooltips, sorting and filters.
(() => {
  for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
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
  for (const heat of document.querySelectorAll(".heat")) {
    for (const cell of heat.querySelectorAll("tbody td[title]")) {
      cell.dataset.detail = cell.title; // a browser would show its own tooltip as well
      cell.removeAttribute("title");
    }
    heat.addEventListener("mouseover", show);
    heat.addEventListener("click", show);
    heat.addEventListener("mouseleave", () => { tip.hidden = true; });
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // A heading sorts by its column, pressed again the other way, and then gives the order back.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.querySelector("tbody.body");
    const order = [...body.rows];
    const heads = [...table.querySelectorAll(".heads th")];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      const text = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const number = (row) => (text(row) === "" ? NaN : Number(text(row)));
      const counts = order.some((row) => !Number.isNaN(number(row)));
      const missing = (row) => (counts ? Number.isNaN(number(row)) : text(row) === "");
      const compare = counts
        ? (a, b) => number(a) - number(b)
        : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
      const ways = counts ? ["descending", "ascending"] : ["ascending", "descending"];
      button.addEventListener("click", () => {
        const way = ways[ways.indexOf(head.getAttribute("aria-sort")) + 1];
        for (const other of heads) other.removeAttribute("aria-sort");
        if (way) head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1;
        const sorted = (a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(a, b));
        body.append(...(way ? [...order].sort(sorted) : order));
      });
    });
  }

  // A filter hides whatever says that it is of something else.
  const filters = [...document.querySelectorAll("select[data-filter]")];
  const filter = () => {
    const chosen = filters.filter((one) => one.value).map((one) => [one.dataset.filter, one.value]);
    for (const each of document.querySelectorAll("[data-suite], [data-defence], [data-attack]")) {
      each.hidden = chosen.some(([kind, name]) => kind in each.dataset && each.dataset[kind] !== name);
    }
    for (const count of document.querySelectorAll("[data-count]")) {
      const rows = [...document.getElementById(count.dataset.count).querySelectorAll("tbody.body tr")];
      const shown = rows.filter((row) => !row.hidden).length;
      count.textContent = `${shown} of ${rows.length} shown`;
    }
  };
  for (const one of filters) one.addEventListener("change", filter);
  const reset = () => {
    for (const one of filters) one.value = "";
    filter();
  };
  for (const button of document.querySelectorAll("button[data-reset]")) {
    button.addEventListener("click", reset);
  }
  // What a link leads to is shown, whatever was filtered.
  addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    const target = link && document.getElementById(link.hash.slice(1));
    if (target && target.closest("[hidden]")) reset();
  });
  if (filters.length) filter(); // a browser may remember what was chosen
})();
