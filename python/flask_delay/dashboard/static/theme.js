// What both scripts use, and the theme that was chosen, if the browser keeps it: read before anything is drawn.
const find = (id) => document.getElementById(id);
const all = (css) => document.querySelectorAll(css);
const kept = (key, value) => {
  try { return value === undefined ? localStorage[`delay-${key}`] : localStorage[`delay-${key}`] = value; } catch {}
};
document.documentElement.dataset.theme = kept("theme") || "";
