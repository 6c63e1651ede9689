// What both scripts use, and the theme that was chosen: read before anything is drawn.
const find = (id) => document.getElementById(id);
const all = (selector) => document.querySelectorAll(selector);
const kept = (key, value) => {
  // Some browsers keep nothing.
  try { return value === undefined ? localStorage[`delay-${key}`] : localStorage[`delay-${key}`] = value; } catch { return undefined; }
};
document.documentElement.dataset.theme = kept("theme") || "";
