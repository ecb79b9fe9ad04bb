"use strict";
// Tables sort by a click on a header: numbers by the first number outside of brackets, missing values always last.
const strip = text => text.replace(/\([^)]*\)/g, " ").replace(/\u2212/g, "-").replace(/,(?=\d{3})/g, "").trim();
const number = text => {
  const found = strip(text).match(/^[[<>≥≤+~]*\s*(-?\d*\.?\d+(?:e[-+]?\d+)?)/i);
  return found ? Number(found[1]) : NaN;
};
const missing = text => ["", "–", "-"].includes(strip(text));
for (const table of document.querySelectorAll(".table table")) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")], body = table.tBodies[0];
  if (!body || body.rows.length < 2) continue;
  const text = (row, column) => row.cells[column] ? row.cells[column].textContent : "";
  const names = heads.map(head => head.textContent);
  if ([...body.rows].some(row => [...row.cells].some(cell => cell.textContent.length > 60))) table.classList.add("cards");
  for (const row of body.rows) [...row.cells].forEach((cell, k) => { cell.dataset.label = names[k] || ""; });
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
      const rows = [...body.rows], known = rows.filter(row => !missing(text(row, column)));
      const numeric = known.every(row => !Number.isNaN(number(text(row, column))));
      const order = (a, b) => numeric ? number(a) - number(b) : a.localeCompare(b, "en", {numeric: true});
      known.sort((a, b) => down * order(text(a, column), text(b, column)));
      body.append(...known, ...rows.filter(row => !known.includes(row)));
    });
  });
}
