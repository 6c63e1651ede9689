// What the page does beyond HTML: times that stay true, the theme, updates, keys, the dialog. htmx puts
// in what has changed; when to ask is decided here. Everything else works without a script.
{
  const spell = (seconds) => {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
      if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
    return `${seconds} s`;
  };
  const tick = () => all("time").forEach((it) => {
    const moment = new Date(it.dateTime), seconds = Math.trunc((Date.now() - moment) / 1000), text = spell(Math.abs(seconds)),
      shown = "ago" in it.dataset ? (seconds < 0 ? `in ${text}` : `${text} ago`) : text;
    // Only what differs: what is selected stays so.
    if (it.textContent !== shown) it.textContent = shown;
    it.title = `${moment}, ${it.dateTime}`;
  });

  const colour = (button) => {
    const chosen = document.documentElement.dataset, dark = matchMedia("(prefers-color-scheme: dark)"),
      is = () => chosen.theme ? chosen.theme === "dark" : dark.matches,
      show = () => { button.textContent = is() ? "Light" : "Dark"; dispatchEvent(new Event("theme")); };
    button.onclick = () => { kept("theme", chosen.theme = is() ? "light" : "dark"); show(); };
    dark.onchange = show;
    show();
  };

  // What became of a form is told, and the page asks for what has changed.
  const tell = (text, done) => {
    const note = document.createElement("p");
    note.className = `banner ${done ? "good" : "bad"}`;
    note.textContent = text;
    find("said").replaceChildren(note);
    htmx.trigger(find("live"), "poll");
  };
  const onForm = (name, act) => addEventListener(`htmx:${name}`, ({ target, detail }) => target.id === "live" || act(detail.ctx?.response));
  addEventListener("said", ({ detail }) => tell(detail.text, detail.done));
  onForm("error", () => tell("No answer came. Look whether it was done before you try again."));
  onForm("after:request", ({ status, headers }) => {
    if (status >= 400 && !headers.get("HX-Trigger")) tell(`It was not done: the answer was ${status}.`);
  });

  // One request at a time: the next one is timed when the last has ended.
  const update = (live, button, state, pace, summary) => {
    let timer, focused, row, misses = 0, told = 0, paused = kept("paused");
    // Whatever was kept: never more often than the app has it.
    let every = Math.max(live.dataset.poll, kept("pace") || 0) || 30;
    const plan = (wait = Math.min(Math.max(30, every), every * 2 ** misses)) => {
      clearTimeout(timer);
      if (!paused && !document.hidden) timer = setTimeout(() => htmx.trigger(live, "poll"), 1000 * wait);
      button.ariaPressed = !!paused;
      pace.value = paused ? 0 : every;
      state.textContent = paused ? "Updates are paused" : misses ? "No answer, asking again" : "";
    };
    const pause = (it) => { kept("paused", paused = it || ""); plan(0); };
    const on = (name, act) => live.addEventListener(`htmx:${name}`, (event) => {
      // Its forms have answers of their own; what is put in has to be ours all the same.
      if (event.target === live || name === "before:swap") act(event.detail.ctx?.response, event);
    });
    button.onclick = () => pause(!paused);
    pace.onchange = () => {
      if (pace.value > 0) kept("pace", every = pace.value);
      pause(pace.value == 0);
    };
    document.onvisibilitychange = () => { tick(); plan(0); };
    on("after:request", ({ status, headers }) => misses = headers.get("HX-PTag") || status === 304 ? 0 : misses + 1);
    on("error", () => misses += 1);
    // A proxy's page and a login are not ours.
    on("before:swap", ({ headers }, event) => {
      if (!headers.get("HX-PTag")) event.preventDefault();
      row = [...all("tr")].indexOf((focused = document.activeElement).closest("tr"));
    });
    on("after:swap", () => {
      tick();
      // Focus that went with its row comes to the link of the next one: no key does harm there.
      if (!focused.isConnected) (all("tr")[row]?.querySelector("a") ?? find("main")).focus();
      const text = all("[data-summary]")[0]?.dataset.summary;
      if (text && Date.now() - told > 3e4) { summary.textContent = text; told = Date.now(); }
    });
    on("finally:request", () => plan());
    plan();
  };

  // A key does what its element does: not while somebody types, and not if keys are off.
  const listen = (choice) => {
    let before = "";
    choice.checked = kept("keys") !== "false";
    choice.onchange = () => kept("keys", choice.checked);
    onkeydown = (event) => {
      if (!choice.checked || event.ctrlKey || event.metaKey || event.altKey
        || event.target.closest("input:not([type=checkbox]), select, dialog")) return;
      const [it] = all(`[data-key="${CSS.escape(before + event.key)}"]`);
      before = event.key === "g" ? "g" : "";
      if (!it) return;
      event.preventDefault();
      it.type === "search" ? it.focus() : it.click();
    };
  };

  all("[data-script]").forEach((it) => it.hidden = false);
  colour(find("theme"));
  listen(find("keys"));
  if (find("live")) update(..."live pause updates pace summary".split(" ").map(find));
  addEventListener("htmx:after:swap", ({ detail }) => detail.ctx.target.showModal?.());
  tick();
  setInterval(() => document.hidden || tick(), 1000);
}
