// What the page does beyond HTML: the theme, times that stay true, and updates. htmx puts in what
// has changed; when to ask is decided here. Everything else works without a script.
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
    return `${seconds} s`;
  };
  const tick = () => {
    for (const it of document.querySelectorAll("time")) {
      const moment = new Date(it.dateTime), seconds = Math.trunc((Date.now() - moment) / 1000);
      const text = spell(Math.abs(seconds));
      const shown = "ago" in it.dataset ? (seconds >= 0 ? `${text} ago` : `in ${text}`) : text;
      if (it.textContent !== shown) it.textContent = shown;
      const local = `${moment.toLocaleString()} (${moment.toISOString()})`;
      if (it.title !== local) it.title = local;
    }
  };

  const switchTheme = (button) => {
    const label = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      keep("delay-theme", root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();
  };

  // One request at a time: the next one is timed when the last has ended.
  const update = (live, button, state, summary) => {
    const LONGEST = 30, QUIET = 30000;
    let timer, failures = 0, told = 0, paused = read("delay-paused") === "yes";
    const wait = () => Math.min(LONGEST, Math.max(1, Number(live.dataset.poll)) * 2 ** failures);
    const ask = () => { clearTimeout(timer); live.dispatchEvent(new Event("poll")); };
    const plan = () => {
      clearTimeout(timer);
      if (!paused && !document.hidden) timer = setTimeout(ask, 1000 * wait());
    };
    const show = () => {
      button.setAttribute("aria-pressed", paused);
      state.hidden = !paused && !failures;
      state.textContent = paused ? "Updates are paused" : failures ? "No answer, asking again" : "";
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      keep("delay-paused", paused ? "yes" : "no");
      show();
      paused ? plan() : ask();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || paused) clearTimeout(timer); else { tick(); ask(); }
    });
    live.addEventListener("htmx:after:request", (event) => {
      const { status, headers } = event.detail.ctx.response;
      failures = headers.get("HX-PTag") || status === 304 ? 0 : failures + 1;
    });
    live.addEventListener("htmx:error", () => { failures += 1; });
    // A proxy's page and a login are not ours.
    live.addEventListener("htmx:before:swap", (event) => {
      if (!event.detail.ctx.response.headers.get("HX-PTag")) event.preventDefault();
    });
    live.addEventListener("htmx:after:swap", () => {
      tick();
      const text = live.querySelector("[data-summary]")?.dataset.summary;
      if (text && Date.now() - told > QUIET) { summary.textContent = text; told = Date.now(); }
    });
    live.addEventListener("htmx:finally:request", () => { show(); plan(); });
    show();
    plan();
  };

  addEventListener("DOMContentLoaded", () => {
    const find = (id) => document.getElementById(id);
    switchTheme(find("theme"));
    if (find("live")) update(find("live"), find("pause"), find("updates"), find("summary"));
    tick();
    setInterval(() => { if (!document.hidden) tick(); }, 1000);
  });
})();
