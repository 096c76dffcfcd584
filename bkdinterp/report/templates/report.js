"use strict";
(() => {
  const root = document.documentElement;
  const tip = document.getElementById("tip"), spoken = document.getElementById("spoken");

  const theme = document.getElementById("theme"), prefers = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => root.dataset.theme === "dark" || (root.dataset.theme === "auto" && prefers.matches);
  const name = () => { theme.textContent = dark() ? "Light colours" : "Dark colours"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  prefers.addEventListener("change", name);
  name();

  let shown = null;
  const hide = () => { shown = null; tip.classList.remove("on"); };
  // Beside the mark, inside the window, above it where there is room.
  const place = () => {
    const at = shown.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left + at.width / 2 - own.width / 2, innerWidth - own.width - 8));
    const above = at.top - own.height - 8;
    tip.style.left = left + "px";
    tip.style.top = (above > 4 ? above : at.bottom + 8) + "px";
  };
  const show = (mark) => {
    shown = mark;
    tip.textContent = mark.dataset.text;
    tip.classList.add("on");
    place();
  };
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest("[data-text]");
    if (mark) show(mark); else if (!event.target.closest("svg.chart")) hide();
  });
  // Points of a curve lie close together: the nearest one answers.
  for (const chart of document.querySelectorAll("svg.chart")) {
    const dots = [...chart.querySelectorAll(".dot")];
    let near = null;
    const leave = () => { if (near) near.classList.remove("near"); near = null; };
    chart.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      let best = null, least = 24;
      for (const dot of dots) {
        const far = Math.hypot(dot.cx.baseVal.value - at.x, dot.cy.baseVal.value - at.y);
        if (far < least) { least = far; best = dot; }
      }
      if (best === near) return;
      leave();
      near = best;
      if (near) { near.classList.add("near"); show(near); } else hide();
    });
    chart.addEventListener("pointerleave", () => { leave(); hide(); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", () => { if (shown) place(); }, { capture: true, passive: true });

  // Arrow keys in every figure: to the nearest mark in that direction, which is shown and read out.
  for (const figure of document.querySelectorAll("[data-nav]")) {
    const marks = [...figure.querySelectorAll("[data-text]")];
    if (!marks.length) continue;
    const where = (mark) => [Number(mark.dataset.row), Number(mark.dataset.column)];
    let at = null;
    const go = (mark) => {
      if (at) at.classList.remove("at");
      at = mark;
      at.classList.add("at");
      at.scrollIntoView({ block: "nearest", inline: "nearest" });
      show(at);
      spoken.textContent = at.dataset.text;
    };
    figure.addEventListener("focus", () => {
      if (figure.matches(":focus-visible")) go(at || figure.querySelector('[data-rank="1"]') || marks[0]);
    });
    figure.addEventListener("blur", () => { if (at) at.classList.remove("at"); hide(); });
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      if (!at) { go(marks[0]); return; }
      const [row, column] = where(at);
      let best = null, least = Infinity;
      for (const mark of marks) {
        const [r, c] = where(mark);
        const along = step[0] ? (r - row) * step[0] : (c - column) * step[1];
        const aside = Math.abs(step[0] ? c - column : r - row);
        if (along <= 0 || (step[1] && aside)) continue;
        const far = along * 1e5 + aside;
        if (far < least) { least = far; best = mark; }
      }
      if (best) go(best);
    });
  }

  // The suspect's strongest heads, and the same places in the other maps.
  for (const figure of document.querySelectorAll("[data-mapped]")) {
    const slider = figure.querySelector("input"), output = figure.querySelector("output");
    const ranked = [...figure.querySelectorAll("[data-rank]")];
    const outline = () => {
      output.textContent = slider.value;
      for (const cell of ranked) cell.classList.toggle("on", Number(cell.dataset.rank) <= Number(slider.value));
    };
    slider.addEventListener("input", outline);
    outline();
    // In a narrow window a map begins where something is to be seen.
    const first = figure.querySelector('[data-rank="1"]');
    if (first)
      for (const frame of figure.querySelectorAll(".scroll:has(.map)"))
        frame.scrollLeft = first.x.baseVal.value - frame.clientWidth / 2;
  }

  // Paper has no way to open what is closed.
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
})();
