"use strict";
(() => {
  const { darker, config } = JSON.parse(document.getElementById("theme").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = new RegExp(Object.keys(darker).join("|"), "gi");
  const hovers = matchMedia("(hover: hover)").matches;
  const PRINTED_WIDTH = 680, PRINTED_HEIGHT = 0.85, NARROW = 520, FIRST_ROWS = 50;
  let printing = false;

  // Figures: drawn one after another, each when the browser has time; drawn anew where colours or the medium change.
  const plots = [...document.querySelectorAll(".plot")];

  function draw(plot) {
    const text = document.getElementById("data-" + plot.id).textContent;
    const figure = JSON.parse(dark.matches && !printing ? text.replace(colour, (c) => darker[c.toLowerCase()]) : text);
    const narrow = plot.clientWidth < NARROW && !printing;
    if (printing) {
      figure.layout.width = PRINTED_WIDTH;
      figure.layout.height *= PRINTED_HEIGHT;
    }
    if (narrow) {
      figure.layout.legend = { ...figure.layout.legend, font: { size: 10 } };
      figure.layout.dragmode = false; // a finger scrolls the page
      figure.layout.font = { size: 11 };
    }
    const options = { ...config, displayModeBar: hovers && !narrow && !printing ? "hover" : false };
    const drawn = Plotly.react(plot, figure.data, figure.layout, options);
    plot.dataset.drawn = dark.matches && !printing ? "dark" : "light";
    return drawn;
  }
  const visible = (plot) => plot.closest("details:not([open])") === null;

  async function drawMissing() {
    for (const plot of plots) {
      if (plot.dataset.drawn || !visible(plot)) continue;
      await draw(plot);
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.ready = "yes";
  }
  const drawAnew = () => plots.filter(visible).forEach(draw);
  dark.addEventListener("change", drawAnew);
  addEventListener("beforeprint", () => { printing = true; drawAnew(); });
  addEventListener("afterprint", () => { printing = false; drawAnew(); });
  document.querySelectorAll("details").forEach((d) => d.addEventListener("toggle", drawMissing));

  // Tables: sorted by a click on a heading, filtered by state, loss and words, saved as CSV.
  for (const section of document.querySelectorAll(".trials")) {
    const { columns, rows, file } = JSON.parse(section.querySelector("script").textContent);
    const body = section.querySelector("tbody"), count = section.querySelector("output"), more = section.querySelector(".more");
    const words = section.querySelector("input"), selects = [...section.querySelectorAll("select")];
    const headings = [...section.querySelectorAll("th")];
    let order = { column: -1, descending: false }, limit = FIRST_ROWS;

    const texts = rows.map((row) => row.shown.join(" ").toLowerCase());
    const compare = (a, b) => (a === null) - (b === null) || (typeof a === "string" ? a.localeCompare(b) : a - b);
    const said = (number) => number.toLocaleString("en");
    function chosen() {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = rows.filter((row, i) => wanted.every((w) => texts[i].includes(w)) &&
        selects.every((s) => !s.value || row.values[+s.dataset.column] === s.value));
      const { column, descending } = order;
      if (column >= 0) {
        found = found.sort((a, b) => {
          const [x, y] = [a.values[column], b.values[column]];
          return x === null || y === null ? compare(x, y) : descending ? compare(y, x) : compare(x, y);
        });
      }
      return found;
    }
    function show() {
      const found = chosen();
      body.replaceChildren(...found.slice(0, limit).map((row) => {
        const line = document.createElement("tr");
        line.className = row.mark;
        row.shown.forEach((text, i) => {
          const cell = line.insertCell();
          cell.textContent = text;
          if (columns[i].left) cell.className = "left";
        });
        return line;
      }));
      const cut = Math.min(limit, found.length);
      count.textContent = cut < found.length ? `${said(cut)} of ${said(found.length)} shown` : `${said(found.length)} of ${said(rows.length)} trials`;
      more.hidden = cut >= found.length;
      headings.forEach((th, i) => th.setAttribute("aria-sort", i !== order.column ? "none" : order.descending ? "descending" : "ascending"));
    }
    headings.forEach((th, column) => th.querySelector("button").addEventListener("click", () => {
      order = { column, descending: order.column === column ? !order.descending : !columns[column].left && column > 0 };
      show();
    }));
    [words, ...selects].forEach((input) => input.addEventListener("input", () => { limit = FIRST_ROWS; show(); }));
    more.addEventListener("click", () => { limit = Infinity; show(); });
    section.querySelector(".csv").addEventListener("click", () => {
      const quoted = (v) => v === null ? "" : /[",\n\r]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v);
      const lines = [columns.map((c) => c.key), ...chosen().map((row) => row.values)].map((line) => line.map(quoted).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
      link.download = file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    show();
  }

  // While `sweeper report --watch` writes the page again and again, a visible page reads it again.
  const refresh = +document.documentElement.dataset.refresh;
  if (refresh) setInterval(() => document.hidden || location.reload(), 1000 * refresh);

  drawMissing();
})();
