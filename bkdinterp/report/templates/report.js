"use strict";
(() => {
  const root = document.documentElement, tip = document.getElementById("tip");
  const say = (text) => { tip.textContent = text; tip.classList.toggle("on", Boolean(text)); };
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme === "dark" || (root.dataset.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = dark ? "light" : "dark";
  });
  // One listener for everything that has a text of its own.
  document.addEventListener("pointerover", (event) => {
    const at = event.target.closest("[data-text]");
    if (at) say(at.dataset.text);
  });
  document.addEventListener("pointerout", (event) => { if (event.target.closest("[data-text]")) say(""); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") say(""); });
  for (const figure of document.querySelectorAll("figure.heads")) {
    const slider = figure.querySelector("input"), output = figure.querySelector("output");
    const outline = () => {
      output.textContent = slider.value;
      // The suspect's strongest heads, and the same places in the reference.
      const first = figure.querySelector("svg");
      const chosen = new Set();
      for (const cell of first.querySelectorAll(".cell"))
        if (Number(cell.dataset.rank) <= Number(slider.value)) chosen.add(cell.dataset.layer + "," + cell.dataset.head);
      for (const cell of figure.querySelectorAll(".cell"))
        cell.querySelector(".ring").classList.toggle("on", chosen.has(cell.dataset.layer + "," + cell.dataset.head));
    };
    slider.addEventListener("input", outline);
    outline();
    for (const svg of figure.querySelectorAll("svg")) {
      let at = null;
      const go = (layer, head) => {
        const next = svg.querySelector('.cell[data-layer="' + layer + '"][data-head="' + head + '"]');
        if (!next) return;
        if (at) at.classList.remove("at");
        at = next;
        at.classList.add("at");
        say(at.dataset.text);
      };
      const strongest = () => svg.querySelector('.cell[data-rank="1"]') || svg.querySelector(".cell");
      svg.addEventListener("focus", () => { const c = at || strongest(); if (c) go(c.dataset.layer, c.dataset.head); });
      svg.addEventListener("blur", () => { if (at) at.classList.remove("at"); say(""); });
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!step || !at) return;
        event.preventDefault();
        go(Number(at.dataset.layer) + step[0], Number(at.dataset.head) + step[1]);
      });
    }
  }
  // A printed page has no way to open what is closed.
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
})();
