// Pointing at a method, or choosing it, shows it above the others in every figure and table.
"use strict";
const pieces = [...document.querySelectorAll("svg.figure g[id]")]
  .map((g) => [g, /-(?:line|band|interval|point|name)-(m\d+)$/.exec(g.id)])
  .filter(([, found]) => found)
  .map(([g, found]) => [g, found[1]]);
const rows = [...document.querySelectorAll("tr[data-method]")];
let chosen = null;

function show(key) {
  for (const [g, method] of pieces) g.style.opacity = key === null || method === key ? "" : "0.12";
  for (const row of rows) row.classList.toggle("chosen", row.dataset.method === key);
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("pointerenter", () => show(button.dataset.method));
  button.addEventListener("pointerleave", () => show(chosen));
  button.addEventListener("click", () => {
    chosen = chosen === button.dataset.method ? null : button.dataset.method;
    for (const other of document.querySelectorAll("nav button"))
      other.setAttribute("aria-pressed", String(other.dataset.method === chosen));
    show(chosen);
  });
}
document.documentElement.dataset.ready = "yes";
