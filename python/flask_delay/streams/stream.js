// followTask(url, {item, attempt, progress, lagged, unreadable, end, error}, {after: 0}) calls
// item(data, number) for each item of a task, in order and once, and end(task) after the last. `url`
// is that of the task's stream, without "/events". Returns a function that stops following.
function followTask(url, on, { after = 0 } = {}) {
  const call = (name, ...data) => on[name] && on[name](...data);
  let source, timer, attempt = 1, stopped = false, heard = false;
  const stop = () => { stopped = true; clearTimeout(timer); if (source) source.close(); };
  const item = (name, data, number) => { if (number > after) { after = number; call(name, data, number); } };
  const again = (number) => { if (number !== attempt) { attempt = number; call("attempt", number); } };
  const end = (state) => { stop(); call("end", state); };
  const poll = async () => {
    try {
      const answer = await fetch(`${url}/items?after=${after}&wait=10`, { headers: { Accept: "application/json" } });
      const told = await answer.json();
      if (stopped) return;
      if (answer.status >= 400 && answer.status !== 503) return stop(), call("error", told);
      if (told.lagged) call("lagged", told.lagged);
      for (const it of told.items || []) {
        again(it.attempt);
        "data" in it ? item("item", it.data, it.number) : item("unreadable", it.unreadable, it.number);
      }
      if (told.task && told.task.progress) call("progress", told.task.progress);
      if (told.ended) return end(told.task);
      timer = setTimeout(poll, told.waited ? 0 : 1000);
    } catch { if (!stopped) timer = setTimeout(poll, 3000); }
  };
  // A proxy that keeps events back, or a server that refuses them: ask for items instead.
  const instead = () => { source.close(); if (!stopped) poll(); };
  source = new EventSource(`${url}/events?after=${after}`);
  timer = setTimeout(() => heard || instead(), 5000);
  source.onopen = () => { heard = true; };
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) { clearTimeout(timer); instead(); } };
  const hear = (name, does) => source.addEventListener(name, (it) => does(JSON.parse(it.data), Number(it.lastEventId)));
  for (const name of ["item", "unreadable"]) hear(name, (data, number) => item(name, data, number));
  for (const name of ["progress", "lagged"]) hear(name, (data) => call(name, data));
  hear("attempt", again);
  hear("end", end);
  return stop;
}
