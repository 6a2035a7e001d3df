"use strict";
// The page of a comparison: differences as a plot, and flipped episodes with the videos of both runs side by side.

(() => {
  const content = JSON.parse(document.getElementById("comparison-data").textContent);
  const at = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  function drawDifferences() {
    const metric = at("plot-metric").value, rate = metric === "success_rate", names = Object.keys(content.jobs);
    const rows = names.filter((name) => content.jobs[name][metric]).map((name) => ({ job: name, ...content.jobs[name][metric] }));
    if (names.length > 1 && content.overall[metric]) rows.push({ job: "all jobs", all: true, ...content.overall[metric] });
    const known = rows.filter((row) => row.difference !== null), target = at("differences"), width = arena.widthOf(target);
    if (!known.length) return arena.draw(target, arena.element("p", { class: "empty" }, "No data."));
    const longest = Math.max(...known.map((row) => row.job.length)), points = (value) => rate ? arena.number(100 * value, 3) : arena.number(value, 3);
    const color = (row) => row.verdict === "better" ? "var(--success)" : row.verdict === "worse" ? "var(--failure)" : "var(--accent)";
    const tip = (row) => `${row.job}: ${(row.verdict ?? "differs").replace("_", " ")}\n${points(row.difference)}` +
      (row.low === null ? "" : ` [${points(row.low)}, ${points(row.high)}]`) + `\nn = ${row.n}`;
    arena.draw(target, Plot.plot({
      ...arena.BASE, width, height: 24 * known.length + 50, marginLeft: Math.min(width * 0.4, 20 + 7 * longest), marginRight: 20, marginBottom: 36,
      x: { label: rate ? "B − A, points" : `B − A, ${metric.replace("_", " ")}`, grid: true, tickFormat: rate ? (value) => points(value) : undefined, nice: true },
      y: { domain: known.map((row) => row.job), label: null, tickSize: 0 },
      marks: [
        ...(rate ? [Plot.rect([0], { x1: -content.margin, x2: content.margin, fill: "currentColor", fillOpacity: 0.07 })] : []),
        Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.5 }),
        Plot.ruleY(known.filter((row) => row.low !== null), { y: "job", x1: "low", x2: "high", stroke: color, strokeWidth: 2.5, strokeLinecap: "round" }),
        Plot.dot(known, { y: "job", x: "difference", r: 5, symbol: (row) => row.all ? "diamond" : "circle", fill: color, stroke: "var(--surface)" }),
        Plot.tip(known, Plot.pointerY({ y: "job", x: "difference", title: tip, fill: "var(--surface)" })),
      ],
    }));
  }

  const metrics = [...new Set(Object.values(content.jobs).flatMap(Object.keys))];
  if (at("plot-metric")) {
    at("plot-metric").replaceChildren(...metrics.map((name) => arena.element("option", { value: name, selected: name === content.metric }, name.replace("_", " "))));
    at("plot-metric").addEventListener("change", drawDifferences);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawDifferences(); } });
    drawDifferences();
  }
  if (!at("grid")) return;

  let shown = [], player = null, current = 0;
  const outcome = (side) => side.success ? "success" : "failure";

  function makeCard(flip) {
    const screen = (name, side) => arena.element("div", { class: "screen" },
      side.videos.length ? arena.element("video", { "data-src": arena.address(side.videos[0][1]), preload: "none", playsinline: true, tabindex: -1, "aria-hidden": "true" }) : arena.element("span", { class: "muted" }, "no video"),
      arena.element("span", { class: "more" }, name));
    const card = arena.element("article", { class: `tile ${outcome(flip.b)}`, "aria-label": `${flip.job}, episode ${flip.episode}, ${flip.words}` },
      arena.element("div", { class: "screens" }, screen("A", flip.a), screen("B", flip.b)),
      arena.element("div", { class: "caption" }, arena.element("span", {}, arena.badge(outcome(flip.a)), " → ", arena.badge(outcome(flip.b))),
        arena.element("span", { class: "name" }, `${flip.job} `, arena.element("b", {}, `#${flip.episode}`))),
      arena.element("div", { class: "caption small last" }, arena.element("span", { class: "figure" }, arena.element("small", {}, "return"), ` ${arena.number(flip.a.return)} → ${arena.number(flip.b.return)}`),
        arena.element("span", { class: "figure seed" }, arena.element("small", {}, "seed"), ` ${flip.seed}`)));
    for (const video of card.querySelectorAll("video")) {
      video.muted = true;
      video.addEventListener("loadedmetadata", () => { video.currentTime = Math.max(0, video.duration - 0.02); });
      video.addEventListener("error", () => video.classList.add("broken"));
    }
    return card;
  }

  // The same camera of both runs in one line.
  function pairs(flip) {
    const titles = [...new Set([...flip.a.videos, ...flip.b.videos].map((video) => video[0]))];
    return titles.flatMap((title) => [["A", flip.a], ["B", flip.b]].map(([name, side]) => {
      const video = side.videos.find((one) => one[0] === title), shown = `${name} · ${title} · ${outcome(side)}`;
      return video ? { title: shown, path: video[1], frames: video[2], fps: video[3], partial: video[4] } : { title: shown, path: null };
    }));
  }

  function open(place) {
    if (place < 0 || place >= shown.length) return;
    player?.close();
    current = grid.current = place;
    const flip = shown[place], dialog = at("episode");
    player = new arena.Player(pairs(flip), { columns: 2 });
    const move = (by, sign, words) => arena.element("button", { type: "button", "aria-label": words, title: words, onclick: () => open(current + by) }, sign);
    const fact = (name, value) => arena.element("div", {}, arena.element("dt", {}, name), arena.element("dd", {}, value));
    const both = (key) => `${arena.number(flip.a[key], 6)} → ${arena.number(flip.b[key], 6)}`;
    dialog.replaceChildren(
      arena.element("header", {}, arena.element("h2", { id: "episode-title" }, `${flip.job} · episode ${flip.episode} `, arena.badge(outcome(flip.a)), " → ", arena.badge(outcome(flip.b))),
        arena.element("span", { class: "muted" }, `${place + 1} of ${shown.length}`), move(-1, "‹", "Previous episode (k)"), move(1, "›", "Next episode (j)"),
        arena.element("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
      player.videos.length ? player.element : arena.element("p", { class: "empty" }, "No video of this episode in either run: arena-ray replay records it."),
      arena.element("dl", { class: "facts" }, fact("return", both("return")), fact("length", both("length")), fact("seed", String(flip.seed)),
        ...(flip.a.episode === flip.b.episode ? [] : [fact("episode in B", String(flip.b.episode))])));
    if (!dialog.open) dialog.showModal();
    (player.button.isConnected ? player.button : dialog.querySelector(".close")).focus();
  }

  const grid = new arena.Grid(at("grid"), { make: makeCard, open, minWidth: 330, height: 220, gap: 12 });

  function applyFilters() {
    const job = at("filter-job").value, way = at("filter-way").value;
    shown = content.flips.filter((flip) => (!job || flip.job === job) && (!way || (way === "better") === flip.b.success));
    at("found").textContent = `${shown.length} of ${content.flips.length} episodes`;
    grid.show(shown);
  }

  const jobs = [...new Set(content.flips.map((flip) => flip.job))];
  at("filter-job").replaceChildren(arena.element("option", { value: "" }, "all"), ...jobs.map((job) => arena.element("option", { value: job }, job)));
  for (const id of ["filter-job", "filter-way"]) at(id).addEventListener("change", applyFilters);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").hidden = !content.flips.length;
  at("episode").addEventListener("close", () => { player?.close(); player = null; grid.focus(current); });
  at("episode").addEventListener("click", (event) => { if (event.target === at("episode")) at("episode").close(); });
  at("episode").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select")) return;
    const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
    if (moves[event.key]) open(current + moves[event.key]);
    else if ((event.key === " " && event.target.matches("button")) || !player?.videos.length || !player.key(event)) return;
    event.preventDefault();
  });
  applyFilters();
  arena.page = { grid, open, get player() { return player; }, get shown() { return shown; } };
})();
