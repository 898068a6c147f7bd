"use strict";
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const paint = () => { root.dataset.theme = chosen ?? (dark.matches ? "dark" : "light"); };
  dark.addEventListener("change", paint);
  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    paint();
  });
  paint();
  document.getElementById("print").addEventListener("click", () => window.print());

  // a click on a column's head sorts by it, a second one the other way round; no value comes last
  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    if (text === undefined || text === "") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return down ? compare(b, a) : compare(a, b);
      });
      body.append(...rows.map(([, row]) => row));
    });
  }

  // every word of the filter has to occur in a row, or in a point's words
  const filter = document.getElementById("filter");
  const count = document.getElementById("count");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (text) => words.every((word) => text.toLowerCase().includes(word));
    let shown = 0;
    let all = 0;
    for (const row of document.querySelectorAll("table.sortable tbody tr")) {
      const fit = fits(row.textContent);
      row.classList.toggle("hidden", !fit);
      shown += fit;
      all += 1;
    }
    for (const point of document.querySelectorAll(".point")) {
      point.classList.toggle("dim", !fits(point.dataset.tip));
    }
    count.textContent = words.length ? `${shown} of ${all} rows` : "";
  });

  const tip = document.getElementById("tip");
  const showTip = (point, x, y) => {
    tip.textContent = point.dataset.tip;
    tip.style.display = "block";
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, window.innerWidth - box.width - 8))}px`;
    tip.style.top = `${y + 16 + box.height > window.innerHeight ? y - box.height - 8 : y + 16}px`;
  };
  const hideTip = () => { tip.style.display = "none"; };
  for (const point of document.querySelectorAll(".point")) {
    point.addEventListener("mousemove", (event) => showTip(point, event.clientX, event.clientY));
    point.addEventListener("mouseleave", hideTip);
    point.addEventListener("focus", () => {
      const box = point.getBoundingClientRect();
      showTip(point, box.right, box.top);
    });
    point.addEventListener("blur", hideTip);
  }
})();
