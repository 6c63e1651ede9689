const place = document.getElementById("answer");
const state = document.getElementById("state");

followTask(place.dataset.stream.replace(/\/events$/, ""), {
  item: (word) => place.append(word),
  lagged: (count) => place.append(`[${count} words are missing] `),
  end: (task) => { state.textContent = task.error ? `failed: ${task.error.class}` : task.state; },
  error: (told) => { state.textContent = told.message; },
});
