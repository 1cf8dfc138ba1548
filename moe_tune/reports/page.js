"use strict";
// The page's only own script: the switch between settings, figures in the page's colours, sorting and filtering.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const figures = read("figures");
  const settings = read("settings");
  let current = settings[0];

  // Replaces every "var(--name)" in a figure by the colour the page has under that name now; "var(--name 29)" adds how
  // opaque it is, in hexadecimal digits.
  function painted(value, style) {
    if (typeof value === "string") {
      if (!value.startsWith("var(--")) return value;
      const [name, opacity = ""] = value.slice(4, -1).split(" ");
      return style.getPropertyValue(name).trim() + opacity;
    }
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, style)]));
    }
    return value;
  }

  function drawFigures(root = document) {
    const style = getComputedStyle(document.documentElement);
    for (const box of all("[data-figure]", root)) {
      const figure = figures[box.dataset.figure][current.key];
      box.hidden = !figure;
      if (!figure) continue;
      const { data, layout } = painted(figure, style);
      Plotly.react(box, data, layout, { displayModeBar: false, responsive: true });
    }
  }

  function show(setting) {
    current = setting;
    for (const view of all("[data-setting]")) view.hidden = view.dataset.setting !== setting.key;
    for (const button of all("button[data-shots]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.shots) === setting.shots));
    }
    for (const button of all("button[data-scope]")) {
      button.setAttribute("aria-pressed", String(button.dataset.scope === setting.scope));
      button.disabled = !settings.some((one) => one.shots === setting.shots && one.scope === button.dataset.scope);
    }
    for (const button of all("button[data-go]")) {
      button.setAttribute("aria-pressed", String(button.dataset.go === setting.key));
    }
    drawFigures();
    for (const note of all(".none")) {
      const views = all("[data-setting], [data-figure]", note.parentElement);
      note.hidden = views.some((view) => !view.hidden);
    }
  }

  function choose(wanted) {
    const near = { shots: current.shots, scope: current.scope, ...wanted };
    const exact = settings.find((one) => one.shots === near.shots && one.scope === near.scope);
    show(exact || settings.find((one) => Object.entries(wanted).every(([key, value]) => one[key] === value)));
  }

  // Numbers sort as numbers, words as words; cells without a value stay last either way.
  function sortBy(header) {
    const table = header.closest("table");
    const rising = header.getAttribute("aria-sort") !== "ascending";
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const numeric = header.dataset.kind === "number";
    const keyed = all("tbody tr", table).map((row) => {
      const cell = row.cells[header.cellIndex];
      return { row, value: numeric ? parseFloat(cell.dataset.v) : cell.textContent };
    });
    const last = (value) => numeric && Number.isNaN(value);
    keyed.sort((one, other) => {
      if (last(one.value) || last(other.value)) return last(one.value) - last(other.value);
      const order = numeric ? one.value - other.value : one.value.localeCompare(other.value);
      return rising ? order : -order;
    });
    table.tBodies[0].append(...keyed.map(({ row }) => row));
  }

  function filter(input) {
    const wanted = input.value.trim().toLowerCase();
    for (const row of all("tbody tr", input.closest("section"))) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.shots) choose({ shots: Number(button.dataset.shots) });
    else if (button.dataset.scope) choose({ scope: button.dataset.scope });
    else if (button.dataset.go) show(settings.find((one) => one.key === button.dataset.go));
    else if (button.parentElement.tagName === "TH") sortBy(button.parentElement);
  });
  document.addEventListener("input", (event) => {
    if (event.target.matches("input[type=search]")) filter(event.target);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawFigures());
  // What is folded away has no width to be drawn in.
  document.addEventListener("toggle", (event) => drawFigures(event.target), true);
  // Paper is light, whatever the screen is.
  for (const [moment, light] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(moment, () => {
      document.documentElement.classList.toggle("light", light);
      drawFigures();
    });
  }
  show(current);
})();
