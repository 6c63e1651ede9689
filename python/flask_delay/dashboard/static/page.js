// What the page does beyond HTML: the theme, and times that stay true. Everything works without it.
(() => {
  "use strict";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const read = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const keep = (key, value) => { try { localStorage.setItem(key, value); } catch { /* Not kept. */ } };
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");

  const chosen = read("delay-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const units = [["d", 86400], ["h", 3600], ["min", 60]];
  const spell = (seconds) => {
    for (const [unit, size] of units) if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
    return `${seconds < 10 && seconds >= 1 ? seconds.toFixed(1).replace(/\.0$/, "") : Math.round(seconds)} s`;
  };
  const tick = () => {
    for (const it of document.querySelectorAll("time")) {
      const moment = new Date(it.dateTime), seconds = (Date.now() - moment) / 1000;
      const text = spell(Math.abs(Math.trunc(seconds)));
      const shown = "ago" in it.dataset ? (seconds >= 0 ? `${text} ago` : `in ${text}`) : text;
      if (it.textContent !== shown) it.textContent = shown;
      const local = `${moment.toLocaleString()} (${moment.toISOString()})`;
      if (it.title !== local) it.title = local;
    }
  };

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      keep("delay-theme", root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();
    tick();
    setInterval(() => { if (!document.hidden) tick(); }, 1000);
  });
})();
