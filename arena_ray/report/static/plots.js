"use strict";
// Plots, with Observable Plot. Colours are variables of the style sheet, so that they follow light and dark.

arena.COLORS = {
  success: "var(--success)", failure: "var(--failure)", error: "var(--error)", timeout: "var(--timeout)", unknown: "var(--unknown)",
};
const NOBODY = ["starting", "never ready"];
const PARTS = ["environment", "policy", "recording", "waiting", "other"];

arena.widthOf = (target) => Math.max(260, target.clientWidth || 260);

arena.draw = (target, plot) => target.replaceChildren(...(plot ? [plot] : []));

arena.BASE = { style: { background: "transparent", color: "inherit", fontSize: "12px", overflow: "visible" } };
const percent = (value) => `${Math.round(100 * value)} %`;

// Each job's metric as a dot with its interval, jobs of one tag together, and each group's own figure as a diamond.
arena.plotJobs = (target, model, metric, tag) => {
  const rate = metric === "success_rate";
  const rows = model.jobs.map((job) => ({ job: job.name, group: tag ? job.tags[tag] ?? "–" : "", ...model.summary.jobs[job.name].metrics[metric] }));
  const known = rows.filter((row) => row.value !== null && row.value !== undefined);
  if (!known.length) return arena.draw(target, arena.element("p", { class: "empty" }, "No data yet."));
  const groups = tag ? [...new Set(rows.map((row) => row.group))] : [""];
  const totals = groups.flatMap((group) => {
    const found = model.summary.groups[tag]?.[group]?.metrics[metric];
    return found && found.value !== null ? [{ ...found, job: "together", group, total: true }] : [];
  });
  const lines = groups.flatMap((group) => [
    ...(tag ? [{ heading: group }] : []), ...rows.filter((row) => row.group === group), ...totals.filter((row) => row.group === group)]);
  lines.forEach((line, place) => { line.place = place; });
  const shown = lines.filter((line) => line.value !== null && line.value !== undefined);
  const width = arena.widthOf(target);
  const longest = Math.max(...lines.map((line) => (line.job ?? line.heading).length));
  const marginLeft = Math.min(width * 0.45, 24 + 7 * longest);
  const most = Math.floor((marginLeft - 20) / 6.6);
  const short = (text) => text.length > most ? text.slice(0, most - 1) + "…" : text;
  const tip = (row) => `${row.job}\n${rate ? percent(row.value) : arena.number(row.value)}` +
    (row.low === null ? "" : `  [${rate ? percent(row.low) : arena.number(row.low)}, ${rate ? percent(row.high) : arena.number(row.high)}]`) + `\nn = ${row.n}`;
  arena.draw(target, Plot.plot({
    ...arena.BASE, width, marginLeft, marginRight: 20, height: 22 * lines.length + 44, marginTop: 8, marginBottom: 36,
    x: { grid: true, label: rate ? "success rate" : metric.replace("_", " "), domain: rate ? [0, 1] : undefined, tickFormat: rate ? percent : undefined, ticks: width > 700 ? 10 : 4, nice: !rate },
    y: { axis: null, domain: [lines.length - 0.4, -0.6] },
    marks: [
      Plot.text(lines, { y: "place", text: (line) => short(line.heading ?? line.job), frameAnchor: "left", textAnchor: "end", dx: -10,
        fill: "currentColor", fontWeight: (line) => line.heading ? "600" : "normal", title: (line) => line.heading ?? line.job }),
      Plot.ruleY(shown.filter((row) => row.low !== null), { y: "place", x1: "low", x2: "high", stroke: "var(--accent)", strokeWidth: 2.5, strokeLinecap: "round" }),
      Plot.dot(shown, { y: "place", x: "value", r: 5, symbol: (row) => row.total ? "diamond" : "circle", fill: "var(--accent)", stroke: "var(--surface)", strokeWidth: 1.5 }),
      Plot.text(lines.filter((line) => line.job && !shown.includes(line)), { y: "place", frameAnchor: "left", dx: 4, text: () => "no data", fill: "var(--muted)", fontStyle: "italic" }),
      Plot.tip(shown, Plot.pointerY({ x: "value", y: "place", title: tip, fill: "var(--surface)" })),
    ],
  }));
};

// How often which value came out, by outcome.
arena.plotDistribution = (target, episodes, key) => {
  const known = episodes.filter((episode) => episode.status === 0 && Number.isFinite(episode[key]));
  if (!known.length) return arena.draw(target, arena.element("p", { class: "empty" }, "No data yet."));
  const outcomes = ["success", "failure", "unknown"].filter((outcome) => known.some((episode) => episode.outcome === outcome));
  const least = Math.min(...known.map((episode) => episode[key])), only = known.every((episode) => episode[key] === least);
  arena.draw(target, Plot.plot({
    ...arena.BASE, width: arena.widthOf(target), height: 190, marginLeft: 42, marginBottom: 36,
    x: { label: key, ...(only ? { domain: [least - 2, least + 2] } : {}) }, y: { label: "episodes", grid: true, tickFormat: "d" },
    color: { domain: outcomes, range: outcomes.map((outcome) => arena.COLORS[outcome]) },
    marks: [
      Plot.rectY(known, Plot.binX({ y: "count" }, { x: key, fill: "outcome", order: outcomes, thresholds: only ? [least - 0.5, least + 0.5] : 24, domain: only ? [least - 2, least + 2] : undefined, tip: { fill: "var(--surface)" } })),
      Plot.ruleY([0], { stroke: "currentColor", strokeOpacity: 0.4 }),
    ],
  }));
};

// The success rate over the episodes in their order, with its interval; where nobody says, the mean return.
arena.plotProgress = (target, episodes) => {
  const judged = episodes.filter((episode) => episode.status === 0 && episode.success !== null);
  const points = [];
  if (judged.length) {
    let successes = 0;
    judged.forEach((episode, place) => {
      successes += episode.success;
      const [low, high] = arena.wilson(successes, place + 1);
      points.push({ episode: episode.episode, value: successes / (place + 1), low, high });
    });
  } else {
    let sum = 0;
    episodes.filter((episode) => episode.return !== null).forEach((episode, place) => {
      sum += episode.return;
      points.push({ episode: episode.episode, value: sum / (place + 1), each: episode.return });
    });
  }
  if (!points.length) return arena.draw(target, arena.element("p", { class: "empty" }, "No data yet."));
  const step = Math.max(1, Math.ceil(points.length / 600));
  const thin = points.filter((_, place) => place % step === 0 || place === points.length - 1);
  target.dataset.last = points.at(-1).value;
  const rate = judged.length > 0;
  arena.draw(target, Plot.plot({
    ...arena.BASE, width: arena.widthOf(target), height: 190, marginLeft: 42, marginBottom: 36,
    x: { label: "episode" }, y: { label: rate ? "success so far" : "return, and its mean so far", grid: true, ...(rate ? { domain: [0, 1], tickFormat: percent } : {}) },
    marks: [
      ...(rate ? [Plot.areaY(thin, { x: "episode", y1: "low", y2: "high", fill: "var(--accent)", fillOpacity: 0.16 })]
        : [Plot.dot(thin, { x: "episode", y: "each", r: 1.6, fill: "currentColor", fillOpacity: 0.4 })]),
      Plot.lineY(thin, { x: "episode", y: "value", stroke: "var(--accent)", strokeWidth: 2 }),
      Plot.tip(thin, Plot.pointerX({ x: "episode", y: "value", fill: "var(--surface)",
        title: (d) => `up to episode ${d.episode}\n` + (rate ? `${percent(d.value)}  [${percent(d.low)}, ${percent(d.high)}]` : arena.number(d.value)) })),
    ],
  }));
};

// A line for each worker, a bar for each chunk that it ran; a bar that is crossed out was lost with its worker.
arena.plotTimeline = (target, hint, model) => {
  const { chunks, marks, omitted } = model.timeline;
  const now = Math.max(0.1, ...chunks.map((chunk) => chunk[4] ?? chunk[3]), ...marks.map((mark) => mark[0]),
    model.episodes.reduce((most, episode) => Math.max(most, (episode.start_s ?? 0) + (episode.duration_s ?? 0)), 0));
  const bars = chunks.map(([job, chunk, attempt, start, end, worker, lost, usage]) => ({
    job: model.jobs[job].name, chunk, attempt, start, end: end ?? now, running: end === null, lost: Boolean(lost), usage,
    worker: model.worker(worker) ?? NOBODY[end === null ? 0 : 1] }));
  if (!bars.length) return arena.draw(target, arena.element("p", { class: "empty" }, "No chunk has begun yet."));
  const first = new Map();
  for (const bar of bars) first.set(bar.worker, Math.min(first.get(bar.worker) ?? last, bar.start));
  const workers = [...first].sort((a, b) => a[1] - b[1]).map(([worker]) => worker);
  const names = model.jobs.map((job) => job.name);
  const tip = (bar) => `${bar.job}, chunk ${bar.chunk}` + (bar.attempt > 1 ? `, attempt ${bar.attempt}` : "") +
    `\n${arena.clock(bar.end - bar.start)}${bar.running ? ", still running" : ""}${bar.lost ? ", lost with its worker" : ""}` +
    (bar.usage ? "\n" + PARTS.map((part, place) => `${part} ${arena.clock(bar.usage[place])}`).join("\n") : "");
  const [unit, scale] = now > 3 * 3600 ? ["hours", 3600] : now > 300 ? ["minutes", 60] : ["seconds", 1];
  const width = arena.widthOf(target), longest = Math.max(...workers.map((worker) => worker.length));
  const losses = bars.filter((bar) => bar.lost), started = workers.filter((worker) => !NOBODY.includes(worker)).length;
  hint.textContent = `${started} worker${started === 1 ? "" : "s"}, ${omitted ? `the newest ${bars.length} of ${bars.length + omitted}` : bars.length} chunks` +
    (losses.length ? `; ${losses.length} lost (✗)` : "") + ". Point at a bar for its times.";
  arena.draw(target, Plot.plot({
    ...arena.BASE, width, height: Math.max(90, 18 * workers.length + 70), marginLeft: Math.min(width * 0.4, 16 + 6.8 * longest), marginBottom: 36, marginRight: 16,
    x: { label: `${unit} since the run began`, domain: [0, now / scale], grid: true }, y: { label: null, domain: workers, padding: 0.25, tickSize: 0 },
    color: { domain: names, scheme: names.length > 10 ? "rainbow" : "tableau10", legend: names.length <= 12 },
    marks: [
      Plot.barX(bars, { x1: (bar) => bar.start / scale, x2: (bar) => bar.end / scale, y: "worker", fill: "job", fillOpacity: (bar) => bar.lost ? 0.35 : 0.85, insetRight: 0.5, rx: 1.5 }),
      Plot.text(losses, { x: (bar) => bar.end / scale, y: "worker", text: () => "✗", fill: "var(--failure)", fontWeight: "bold", fontSize: 14 }),
      Plot.tip(bars, Plot.pointer({ x: (bar) => (bar.start + bar.end) / 2 / scale, y: "worker", title: tip, fill: "var(--surface)", maxRadius: 60 })),
    ],
  }));
};

