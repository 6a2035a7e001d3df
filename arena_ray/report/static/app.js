"use strict";
// The page of a run: which part is shown, which episodes pass the filters, and what is new while the run goes on.

(() => {
  const model = new arena.Model(JSON.parse(document.getElementById("run-data").textContent));
  const at = (id) => document.getElementById(id);
  const CARD = { videos: [220, 246], narrow: [150, 200], list: [9999, 34] };  // Least width, height.
  const filters = { text: at("filter-text"), job: at("filter-job"), tag: at("filter-tag"), camera: at("filter-camera"), order: at("filter-order"), form: at("filter-form") };
  const DEFAULTS = { text: "", job: "", tag: "", camera: "", order: "worst", form: model.episodes.some((episode) => episode.videos.length) || model.live ? "videos" : "list" };
  let outcomes = new Set(), shown = [], view = null;

  document.documentElement.classList.add("scripted");

  // --- what the filters say -------------------------------------------------------------------------------------

  const state = () => Object.fromEntries(Object.entries(filters).map(([name, field]) => [name, field.value]));

  function options(select, pairs) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, text]) => arena.element("option", { value }, text)));
    select.value = pairs.some(([value]) => value === before) ? before : pairs[0][0];
    select.parentElement.hidden = pairs.length < 3;
  }

  function fillFilters() {
    options(filters.job, [["", "all"], ...model.jobs.map((job) => [job.name, job.name])]);
    options(filters.tag, [["", "all"], ...model.tags()]);
    options(filters.camera, [["", "any"], ...model.cameras.map((_, number) => [String(number), model.cameraName(number)])]);
    options(at("plot-group"), [["", "–"], ...Object.keys(model.summary.groups).map((tag) => [tag, tag])]);
    at("plot-group").parentElement.hidden = !Object.keys(model.summary.groups).length;
    const metrics = new Set(model.jobs.flatMap((job) => Object.keys(model.summary.jobs[job.name].metrics)));
    const preferred = [...metrics].filter((name) => Object.values(model.summary.jobs).some((job) => job.metrics[name]?.n > 0));
    options(at("plot-metric"), (preferred.length ? preferred : [...metrics]).map((name) => [name, name.replace("_", " ")]));
    at("plot-metric").parentElement.hidden = false;
  }

  function chips(counts) {
    const present = arena.OUTCOMES.filter((outcome) => counts[outcome] || outcomes.has(outcome));
    at("filter-outcomes").replaceChildren(at("filter-outcomes").firstElementChild, ...present.map((outcome) => {
      const box = arena.element("input", { type: "checkbox", value: outcome, checked: outcomes.has(outcome), onchange: () => {
        box.checked ? outcomes.add(outcome) : outcomes.delete(outcome);
        changed();
        at("filter-outcomes").querySelector(`[value=${outcome}]`)?.focus();
      } });
      return arena.element("label", { class: `chip ${outcome}` }, box, arena.badge(outcome), ` ${counts[outcome] ?? 0}`);
    }));
  }

  function applyFilters(keep = false) {
    const filter = state(), found = model.matching(filter), counts = {};
    for (const episode of found) counts[episode.outcome] = (counts[episode.outcome] ?? 0) + 1;
    chips(counts);
    shown = found.filter((episode) => !outcomes.size || outcomes.has(episode.outcome)).sort(arena.ORDERS[filter.order]);
    at("found").textContent = `${shown.length} of ${model.episodes.length} episodes` +
      (model.omitted ? `; ${model.omitted} that were recorded later are not in this page, only in its figures` : "");
    const narrowed = outcomes.size || ["text", "job", "tag", "camera"].some((name) => filter[name] !== DEFAULTS[name]);
    at("filter-reset").hidden = !narrowed;
    at("nothing").hidden = shown.length > 0;
    at("nothing").textContent = model.episodes.length ? "No episode passes these filters." : "No episode has ended yet.";
    document.body.dataset.form = filter.form;
    const narrow = innerWidth < 560;
    const [width, height] = filter.form === "list" ? [at("grid").clientWidth || 9999, narrow ? 52 : CARD.list[1]] : narrow ? CARD.narrow : CARD.videos;
    grid.gap = filter.form === "list" ? 2 : 12;
    if (grid.minWidth !== width || grid.height !== height) grid.setShape(width, height);
    grid.show(shown, { keep });
    drawJob();
  }

  function changed() {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(state())) if (value !== DEFAULTS[name]) query.set(name, value);
    for (const outcome of outcomes) query.append("outcome", outcome);
    history.replaceState(null, "", `#/episodes${query.size ? "?" + query : ""}`);
    applyFilters();
  }

  // --- cards ----------------------------------------------------------------------------------------------------

  function makeCard(episode) {
    const camera = filters.camera.value === "" ? null : Number(filters.camera.value);
    const video = episode.videos.find((one) => one[0] === camera) ?? episode.videos[0];
    const list = filters.form.value === "list", error = model.error(episode);
    const words = `${episode.job.name}, episode ${episode.episode}, ${episode.outcome}`;
    const name = arena.element("span", { class: "name" }, model.jobs.length > 1 ? `${episode.job.name} ` : "", arena.element("b", {}, `#${episode.episode}`));
    const figures = [["return", arena.number(episode.return)], ["length", arena.number(episode.length)], ["seed", String(episode.seed ?? "–")]]
      .map(([key, value]) => arena.element("span", { class: `figure ${key}` }, arena.element("small", {}, key), " ", value));
    const line = error ? [arena.element("span", { class: "figure message", title: error[1] }, `${error[0]}: ${error[1]}`)] : figures;
    if (list)
      return arena.element("article", { class: `line ${episode.outcome}`, "aria-label": words }, arena.badge(episode.outcome), name, ...line,
        arena.element("span", { class: "figure count" }, episode.videos.length ? `▶ ${episode.videos.length}` : ""));
    const seed = figures.pop();
    return arena.element("article", { class: `tile ${episode.outcome}`, "aria-label": words },
      arena.element("div", { class: "screen" }, video ? thumbnail(video) : arena.element("span", { class: "muted" }, "no video"),
        episode.videos.length > 1 ? arena.element("span", { class: "more" }, `${episode.videos.length} cameras`) : null),
      arena.element("div", { class: "caption" }, arena.badge(episode.outcome), name), arena.element("div", { class: "caption small" }, ...line),
      arena.element("div", { class: "caption small last" }, seed));
  }

  // Shows the last frame, which tells most; plays while it is pointed at.
  function thumbnail([, path, frames, fps]) {
    const video = arena.element("video", { "data-src": arena.address(path), preload: "none", playsinline: true, tabindex: -1, "aria-hidden": "true" });
    const rest = () => { if (Number.isFinite(video.duration)) video.currentTime = Math.max(0, video.duration - 0.5 / (fps || 1)); };
    video.muted = video.loop = true;
    video.addEventListener("loadedmetadata", rest);
    video.addEventListener("error", () => video.classList.add("broken"));
    video.addEventListener("pointerenter", () => { if (video.readyState) { video.currentTime = 0; video.play().catch(() => {}); } });
    video.addEventListener("pointerleave", () => { video.pause(); rest(); });
    return video;
  }

  const grid = new arena.Grid(at("grid"), { make: makeCard, open: (place) => go(shown[place]), minWidth: CARD.videos[0], height: CARD.videos[1], gap: 12 });

  // --- one job ---------------------------------------------------------------------------------------------------

  function drawJob() {
    const name = filters.job.value || (model.jobs.length === 1 ? model.jobs[0].name : ""), head = at("job-head");
    head.hidden = !name;
    if (!name || at("episodes").hidden) return;
    const job = model.summary.jobs[name], own = model.jobs.find((one) => one.name === name);
    const end = job.stopped?.at ?? Infinity;  // What was in flight when a job stopped counts for nothing.
    const episodes = model.episodes.filter((episode) => episode.job.name === name && episode.episode < end);
    const names = ["job-return", "job-length", "job-progress"];
    if (head.dataset.job !== name) {
      head.dataset.job = name;
      const plots = [["Returns", names[0]], ["Lengths", names[1]], ["Over the episodes", names[2]]].map(([title, id]) =>
        arena.element("div", { class: "card" }, arena.element("h3", {}, title, ...(id === names[2] ? [] : ["success", "failure"].filter(() => job.metrics.success_rate.n).map(arena.badge))), arena.element("div", { id, class: "plot", role: "img", "aria-label": `${title} of ${name}` })));
      head.replaceChildren(arena.element("h2", {}, name), own.instruction ? arena.element("p", { class: "instruction" }, `“${own.instruction}”`) : "",
        arena.element("div", { id: "job-figures", class: "tiles" }), arena.element("div", { class: "plots" }, ...plots));
    }
    at("job-figures").replaceChildren(...Object.entries(job.metrics).filter(([key, metric]) => metric.n || key === "success_rate").map(([key, metric]) => {
      const rate = key === "success_rate", number = (value) => rate ? `${arena.number(100 * value, 3)} %` : arena.number(value);
      return arena.element("div", { class: "figure-tile", "data-metric": key, "data-value": metric.value }, arena.element("small", {}, key.replace("_", " ")),
        arena.element("b", {}, metric.value === null ? "no data" : number(metric.value)),
        arena.element("small", {}, metric.low === null ? "" : `[${rate ? arena.number(100 * metric.low, 3) : arena.number(metric.low, 3)}, ${rate ? arena.number(100 * metric.high, 3) : arena.number(metric.high, 3)}]`));
    }));
    arena.plotDistribution(at(names[0]), episodes, "return");
    arena.plotDistribution(at(names[1]), episodes, "length");
    arena.plotProgress(at(names[2]), episodes);
  }

  // --- where we are ----------------------------------------------------------------------------------------------

  function go(episode) { location.hash = `#/episode/${encodeURIComponent(episode.job.name)}/${episode.episode}`; }

  const dialog = new arena.EpisodeView(at("episode"), model, {
    onmove: (by) => {
      const place = shown.findIndex((episode) => episode.key === dialog.episode.key) + by;
      if (place >= 0 && place < shown.length) { grid.current = place; history.replaceState(null, "", `#/episode/${encodeURIComponent(shown[place].job.name)}/${shown[place].episode}`); open(shown[place]); }
    },
    onclose: () => {
      if (location.hash.startsWith("#/episode/")) changed();
      grid.focus(Math.max(0, shown.findIndex((episode) => episode.key === dialog.episode?.key)));
    },
  });

  function open(episode) {
    let place = shown.findIndex((one) => one.key === episode.key);
    if (place < 0) {  // The filters hide it.
      reset();
      applyFilters();
      place = shown.findIndex((one) => one.key === episode.key);
    }
    grid.current = place;
    dialog.show(episode, `${place + 1} of ${shown.length}`);
  }

  function reset() {
    for (const [name, field] of Object.entries(filters)) if (name !== "form" && name !== "order") field.value = DEFAULTS[name];
    outcomes = new Set();
  }

  function route() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?"), parts = path.split("/");
    const wanted = parts[0] === "episode" ? "episodes" : parts[0] || "overview";
    view = ["overview", "episodes", "errors", "timeline", "about"].includes(wanted) ? wanted : "overview";
    for (const section of document.querySelectorAll("[data-section]")) section.hidden = section.dataset.section !== view;
    for (const link of document.querySelectorAll("nav a")) link.dataset.view === view ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
    if (parts[0] !== "episode" && at("episode").open) at("episode").close();
    if (view === "episodes" && parts[0] === "episodes") {
      const given = new URLSearchParams(query);
      for (const [name, field] of Object.entries(filters)) field.value = given.get(name) ?? DEFAULTS[name];
      outcomes = new Set(given.getAll("outcome").filter((outcome) => arena.OUTCOMES.includes(outcome)));
    }
    draw();
    if (parts[0] === "episode") {
      const episode = model.byKey.get(`${decodeURIComponent(parts[1] ?? "")}/${parts[2]}`);
      if (episode) open(episode);
    }
  }

  function draw(keep = false) {
    if (view === "overview") arena.plotJobs(at("jobs-plot"), model, at("plot-metric").value, at("plot-group").value);
    if (view === "timeline") arena.plotTimeline(at("timeline-plot"), at("timeline-hint"), model);
    if (view === "episodes") applyFilters(keep);
    const broken = model.episodes.filter((episode) => episode.status !== 0).length;
    at("error-count").textContent = broken || "";
  }

  // --- what is new -----------------------------------------------------------------------------------------------

  async function poll() {
    let wait = 1000;
    try {
      const query = new URLSearchParams({ epoch: model.epoch, after: model.cursor, errors: model.errors.length, stamp: model.stamp });
      const news = await (await fetch(`_api/updates?${query}`, { cache: "no-store" })).json();
      document.body.classList.remove("cut-off");
      if (news.reset) return location.reload();
      if (news.changed) {
        model.errors.push(...news.errors);
        model.take(news.content);
        model.add(news.rows);
        for (const [name, html] of Object.entries(news.fragments)) for (const target of document.querySelectorAll(`[data-fragment=${name}]`)) replaceHtml(target, html);
        fillFilters();
        if (!at("episode").open) draw(true);
        if (news.more) wait = 20;
      } else if (model.status !== "running") wait = 5000;
    } catch {
      document.body.classList.add("cut-off");
      wait = 3000;
    }
    setTimeout(poll, wait);
  }

  // Fragments are escaped where they are made; what people opened stays open.
  function replaceHtml(target, html) {
    const open = [...target.querySelectorAll("details")].map((details) => details.open);
    target.innerHTML = html;
    [...target.querySelectorAll("details")].forEach((details, place) => { if (place in open) details.open = open[place]; });
  }

  // --- begin -----------------------------------------------------------------------------------------------------

  document.querySelector("nav").hidden = false;
  fillFilters();
  for (const [name, field] of Object.entries(filters)) field.addEventListener(name === "text" ? "input" : "change", changed);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filter-reset").addEventListener("click", () => { reset(); changed(); });
  for (const id of ["plot-metric", "plot-group"]) at(id).addEventListener("change", () => draw());
  at("help").addEventListener("click", () => at("keys").showModal());
  addEventListener("hashchange", route);
  let resized = 0, width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(resized); resized = setTimeout(() => draw(true), 120); } });
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); if (view !== "episodes") location.hash = "#/episodes"; setTimeout(() => filters.text.focus()); }
    else if (event.key === "?") at("keys").showModal();
    else if (view === "episodes" && event.key.startsWith("Arrow") && !at("grid").contains(document.activeElement)) { event.preventDefault(); grid.focus(grid.current); }
  });
  route();
  if (model.live) poll();
  arena.page = { model, grid, dialog, get shown() { return shown; } };
})();
