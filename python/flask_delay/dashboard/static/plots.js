// Draws the numbers in data-points: plots with one cursor, in the colours of their legends.
{
  const box = () => all("[data-points]")[0], short = (it) => +it.toPrecision(3);
  const units = {
    // Of a logarithm.
    seconds: (log, it = 10 ** log) => it < 1e-3 ? `${short(it * 1e6)} µs` : it < 1 ? `${short(it * 1e3)} ms` : `${short(it)} s`,
    count: (it) => short(it).toLocaleString(),
  };
  let found, used = 1;
  // Times and rows. An answer without news says that the last numbers hold until now.
  const read = () => {
    const { from, step, span, rows } = JSON.parse(box().dataset.points), now = Date.now() / 1000,
      times = rows[0].map((_, n) => from + n * step);
    found = { step, x: [now - span, now], rows: [[...times, Math.max(now, times.at(-1))], ...rows.map((it) => [...it, it.at(-1)])] };
  };
  // Points without a line to their neighbours.
  const alone = ({ data }, n) => data[n].flatMap((it, k, row) => it == null || (row[k - 1] ?? row[k + 1]) != null ? [] : k);
  const colour = (it) => () => getComputedStyle(it).color;
  const draw = (figure) => {
    const keys = [...figure.querySelectorAll(".key")], first = used, isCount = figure.dataset.unit === "count";
    const area = figure.lastElementChild, unit = units[figure.dataset.unit], size = () => ({ width: area.clientWidth, height: 150 });
    const data = () => [found.rows[0], ...found.rows.slice(first, first + keys.length)];
    const clock = new Intl.DateTimeFormat([], found.step > 600 ? { weekday: "short", day: "numeric" } : { timeStyle: "short" });
    const axis = (size, text, more) => ({
      stroke: colour(area), ticks: { show: false }, size, values: (_, them) => them.map((it) => text(it)), ...more,
    });
    // What is under the cursor, or the last.
    const tell = ({ data, cursor }) => keys.forEach((it, n) => {
      const value = data[n + 1].at(cursor.idx ?? -1);
      it.lastElementChild.textContent = value == null ? "–" : unit(value);
    });
    used += keys.length;
    area.replaceChildren();
    const plot = new uPlot({
      ...size(), legend: { show: false }, hooks: { setCursor: [tell] }, padding: [8, 18, 0, 0],
      cursor: { y: false, drag: { x: false }, sync: { key: "delay" } },
      scales: {
        x: { range: () => found.x },
        y: { range: (_, low, high) => isCount ? [0, Math.max(1, high * 1.1)] : [Math.floor(low), Math.ceil(high + 0.01)] },
      },
      axes: [
        axis(24, (it) => clock.format(1000 * it), { grid: { show: false } }),
        axis(isCount ? 34 : 50, unit, { grid: { stroke: colour(figure), width: 1 }, incrs: isCount ? null : [1, 2, 4] }),
      ],
      series: [{}, ...keys.map((it) => ({ stroke: colour(it), width: 2, dash: it.dataset.dash?.split(" ").map(Number), points: { size: 4, filter: alone } }))],
    }, data(), area);
    new ResizeObserver(() => plot.setSize(size())).observe(area);
    addEventListener("htmx:finally:request", () => { plot.setData(data()); tell(plot); });
    addEventListener("theme", () => plot.redraw(false));
  };
  if (box()) {
    read();
    addEventListener("htmx:finally:request", read);
    all("[data-unit]").forEach(draw);
  }
}
