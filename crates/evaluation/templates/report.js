"use strict";

// The value by which a cell is sorted: numbers by size, whatever has none last.
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text);
  return /^[-+]?[\d.]/.test(text) && !Number.isNaN(number) ? number : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

// The header cell that is right above each column.
function headers(table) {
  const columns = [];
  const taken = [];
  [...table.tHead.rows].forEach((row, y) => {
    let x = 0;
    for (const cell of row.cells) {
      while (taken[x] > y) x += 1;
      for (let i = 0; i < cell.colSpan; i += 1, x += 1) {
        taken[x] = y + cell.rowSpan;
        columns[x] = cell;
      }
    }
  });
  return columns;
}

// A click on a header sorts by its column, another one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  headers(table).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const first = header.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      for (const sorted of table.querySelectorAll("[aria-sort]")) sorted.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", order);
      const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
      const sign = order === "ascending" ? 1 : -1;
      rows.sort(([a], [b]) => sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function share(part, whole) {
  return whole === 0 ? "undefined" : (part / whole).toFixed(3);
}

// Decides every image of a table anew.
function decide(images, threshold) {
  let [found, missed, falseAlarms, passed] = [0, 0, 0, 0];
  for (const row of images.querySelectorAll("tr[data-score]")) {
    const anomalous = Number(row.dataset.score) >= threshold;
    if (row.dataset.anomalous === "true") {
      anomalous ? (found += 1) : (missed += 1);
    } else {
      anomalous ? (falseAlarms += 1) : (passed += 1);
    }
    row.querySelector(".decision").textContent = anomalous ? "anomalous" : "normal";
  }
  images.querySelector(".threshold").textContent = threshold.toFixed(3);
  images.querySelector(".decided").textContent =
    `finds ${found} of ${found + missed} anomalous images and calls ${falseAlarms} of ` +
    `${falseAlarms + passed} normal ones anomalous: precision ${share(found, found + falseAlarms)}, ` +
    `recall ${share(found, found + missed)}, F1 ${share(2 * found, 2 * found + falseAlarms + missed)}`;
}

for (const images of document.querySelectorAll(".images")) {
  const slider = images.querySelector("input[type=range]");
  if (!slider) continue;
  slider.closest(".slider").hidden = false;
  slider.addEventListener("input", () => decide(images, Number(slider.value)));
}
