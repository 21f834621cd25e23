"use strict";
(() => {
  const table = document.getElementById("corrections-table");
  const link = document.getElementById("corrections-file");
  const given = JSON.parse(document.getElementById("corrections").dataset.given);
  const key = (a, b) => JSON.stringify([a, b].sort());
  const said = new Map(given.map(([a, b, same]) => [key(a, b), [a, b, same]]));
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const buttons = [...document.querySelectorAll("button[data-same]")];

  function show() {
    const rows = [...said.values()].map(([a, b, same]) => `${quoted(a)},${quoted(b)},${same}\n`);
    table.value = "tracklet_a,tracklet_b,same\n" + rows.join("");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([table.value], { type: "text/csv" }));
    document.getElementById("corrections-number").textContent = String(said.size);
    for (const button of buttons) {
      const one = said.get(key(button.dataset.a, button.dataset.b));
      button.setAttribute("aria-pressed", String(Boolean(one) && String(one[2]) === button.dataset.same));
    }
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const { a, b, same } = button.dataset;
      if (button.getAttribute("aria-pressed") === "true") said.delete(key(a, b));
      else said.set(key(a, b), [a, b, Number(same)]);
      show();
    });
  }
  document.documentElement.classList.add("scripted");
  show();
})();
