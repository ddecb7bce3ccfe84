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
    if (header.classList.contains("unsorted")) return;
    // Browsers do not print a button again where the head of a table is repeated.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      button.click();
    });
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

// What a threshold makes of all images, though not all may be listed.
function sentence({ scores, normal, anomalous }, threshold) {
  const above = (scores) => scores.filter((score) => score >= threshold).length;
  if (scores) return `calls ${above(scores)} of ${scores.length} images anomalous`;
  const [found, alarms] = [above(anomalous), above(normal)];
  return (
    `finds ${found} of ${anomalous.length} anomalous images and calls ${alarms} of ` +
    `${normal.length} normal ones anomalous: precision ${share(found, found + alarms)}, ` +
    `recall ${share(found, anomalous.length)}, F1 ${share(2 * found, found + alarms + anomalous.length)}`
  );
}

function decide(images, scores, threshold) {
  images.querySelector(".threshold").textContent = threshold.toFixed(3);
  images.querySelector(".decided").textContent = sentence(scores, threshold);
  for (const row of images.querySelectorAll("tr[data-score]")) {
    const isAnomalous = Number(row.dataset.score) >= threshold;
    row.querySelector(".decision").textContent = isAnomalous ? "anomalous" : "normal";
  }
}

for (const images of document.querySelectorAll(".images")) {
  const slider = images.querySelector("input[type=range]");
  if (!slider) continue;
  slider.closest(".slider").hidden = false;
  const scores = {};
  for (const [name, values] of Object.entries(images.dataset)) {
    scores[name] = values === "" ? [] : values.split(" ").map(Number);
  }
  slider.addEventListener("input", () => decide(images, scores, Number(slider.value)));
}
