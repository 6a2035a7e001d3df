"use strict";
// What the page knows of a run: its episodes, and which of them the filters let through.

const arena = {};

arena.OUTCOMES = ["error", "timeout", "failure", "unknown", "success"];
arena.SIGNS = { error: "!", timeout: "⏱", failure: "✗", unknown: "?", success: "✓" };

// An address below the page's folder, whatever the path says.
arena.address = (path) => "./" + path.split("/").map(encodeURIComponent).join("/");

arena.number = (value, digits = 4) => {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value).replace("-", "−");
  if (Math.abs(value) >= 10 ** digits && Math.abs(value) < 1e6) return value.toFixed(0).replace("-", "−");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
};

arena.clock = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds), pad = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
};

// Makes an element; text is text, never HTML.
arena.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

arena.badge = (outcome) =>
  arena.element("span", { class: `badge ${outcome}` }, arena.element("span", { "aria-hidden": "true" }, arena.SIGNS[outcome] + " "), outcome);

class Episode {
  constructor(row, model) {
    model.fields.forEach((field, place) => { this[field] = row[place]; });
    this.jobNumber = this.job;
    this.job = model.jobs[this.jobNumber];
    this.key = `${this.job.name}/${this.episode}`;
    const completed = this.success === null ? "unknown" : this.success ? "success" : "failure";
    this.outcome = this.status === 0 ? completed : this.status === 1 ? "error" : "timeout";
    this.rank = arena.OUTCOMES.indexOf(this.outcome);
    this.cameras = new Set(this.videos.map((video) => video[0]));
  }
}

class Model {
  constructor(content) {
    this.fields = content.fields;
    this.jobs = content.jobs;
    this.errors = content.errors;
    this.live = content.live;
    this.byKey = new Map();
    this.take(content);
    this.add(content.rows);
  }

  // Takes over what changes while a run goes on.
  take(content) {
    for (const name of ["name", "status", "epoch", "stamp", "omitted", "cursor", "summary", "cameras", "workers", "timeline"]) this[name] = content[name];
  }

  add(rows) {
    for (const row of rows) {
      const episode = new Episode(row, this);
      this.byKey.set(episode.key, episode);
    }
    this.episodes = [...this.byKey.values()].sort((a, b) => a.jobNumber - b.jobNumber || a.episode - b.episode);
    this.texts = new Map();
  }

  cameraName(number) {
    const [kind, name] = this.cameras[number];
    return name ?? kind;
  }

  worker(number) {
    if (number === null) return null;
    const [host, pid, gpus] = this.workers[number];
    return `${host}:${pid}` + (gpus.length ? ` GPU ${gpus.join(", ")}` : "");
  }

  error(episode) {
    return episode.error === null ? null : this.errors[episode.error];
  }

  tags() {
    const tags = new Map();
    for (const job of this.jobs)
      for (const [tag, value] of Object.entries(job.tags)) tags.set(JSON.stringify([tag, value]), `${tag}: ${value}`);
    return tags;
  }

  // What a search looks through; made when first asked for.
  text(episode) {
    let text = this.texts.get(episode.key);
    if (text === undefined) {
      const error = this.error(episode);
      const tags = Object.entries(episode.job.tags).map(([tag, value]) => `${tag}:${value}`);
      text = [episode.job.name, `episode ${episode.episode}`, `seed ${episode.seed}`, episode.outcome, episode.job.instruction ?? "",
        this.worker(episode.worker) ?? "", `chunk ${episode.chunk}`, `attempt ${episode.attempt}`, ...tags,
        ...(error ? [error[0], error[1]] : [])].join("\n").toLowerCase();
      this.texts.set(episode.key, text);
    }
    return text;
  }

  // Episodes that pass everything but the outcome, so that outcomes can be counted.
  matching(filter) {
    const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    const tag = filter.tag ? JSON.parse(filter.tag) : null;
    const camera = filter.camera === "" ? null : Number(filter.camera);
    return this.episodes.filter((episode) =>
      episode.episode < (this.summary.jobs[episode.job.name].stopped?.at ?? Infinity) &&  // The rest counts for nothing.
      (!filter.job || episode.job.name === filter.job) &&
      (tag === null || episode.job.tags[tag[0]] === tag[1]) &&
      (camera === null || episode.cameras.has(camera)) &&
      words.every((word) => /^\d+$/.test(word) ? this.hasNumber(episode, word) : this.text(episode).includes(word)));
  }

  hasNumber(episode, word) {
    return String(episode.episode) === word || String(episode.seed) === word || (this.error(episode)?.[1] ?? "").includes(word) ||
      (episode.job.instruction ?? "").includes(word) || episode.job.name.includes(word);
  }
}

const last = Number.POSITIVE_INFINITY;
arena.ORDERS = {
  worst: (a, b) => a.rank - b.rank || a.jobNumber - b.jobNumber || a.episode - b.episode,
  episode: (a, b) => a.jobNumber - b.jobNumber || a.episode - b.episode,
  newest: (a, b) => (b.start_s ?? -1) + (b.duration_s ?? 0) - (a.start_s ?? -1) - (a.duration_s ?? 0),
  "low-return": (a, b) => (a.return ?? last) - (b.return ?? last) || 0,
  "high-return": (a, b) => (b.return ?? -last) - (a.return ?? -last) || 0,
  short: (a, b) => (a.length ?? last) - (b.length ?? last) || 0,
  long: (a, b) => (b.length ?? -last) - (a.length ?? -last) || 0,
};

// Wilson's 95 % interval, as summary.json has it.
arena.wilson = (successes, n) => {
  const z = 1.959963984540054, rate = successes / n;
  const centre = (rate + z * z / (2 * n)) / (1 + z * z / n);
  const half = z / (1 + z * z / n) * Math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n));
  return [successes === 0 ? 0 : Math.max(0, centre - half), successes === n ? 1 : Math.min(1, centre + half)];
};

arena.Model = Model;
