"use strict";
// One episode in a dialog: its cameras side by side, what it came to, and the way to the next one.

class EpisodeView {
  // onmove(+1 | -1) goes to another episode; onclose() is called when the dialog is gone.
  constructor(dialog, model, { onmove, onclose }) {
    Object.assign(this, { dialog, model, onmove, player: null });
    dialog.addEventListener("close", () => { this.player?.close(); this.player = null; onclose(); });
    dialog.addEventListener("keydown", (event) => this.key(event));
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  show(episode, position) {
    this.player?.close();
    const speed = this.player?.speed.value;
    this.episode = episode;
    this.player = new arena.Player(episode.videos.map(([camera, path, frames, fps, partial, segment]) => (
      { path, frames, fps, partial, title: this.model.cameraName(camera) + (segment ? `, part ${segment + 1}` : "") })));
    if (speed) { this.player.speed.value = speed; this.player.setSpeed(Number(speed)); }
    const title = arena.element("h2", { id: "episode-title" }, `${episode.job.name} · episode ${episode.episode} `, arena.badge(episode.outcome));
    const move = (by, sign, words) => arena.element("button", { type: "button", "aria-label": words, title: words, onclick: () => this.onmove(by) }, sign);
    const head = arena.element("header", {}, title, arena.element("span", { class: "muted" }, position),
      move(-1, "‹", "Previous episode (k)"), move(1, "›", "Next episode (j)"),
      arena.element("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.dialog.close() }, "×"));
    this.dialog.replaceChildren(head, ...(episode.videos.length ? [this.player.element] : [this.noVideo()]), this.error(), this.facts());
    if (!this.dialog.open) this.dialog.showModal();
    (this.player.button.isConnected ? this.player.button : this.dialog.querySelector(".close")).focus();
  }

  noVideo() {
    const command = `arena-ray replay ${this.model.name} --job ${this.episode.job.name} --episodes ${this.episode.episode}`;
    return arena.element("p", { class: "empty" }, "This episode has no video. Record it: ", arena.element("code", {}, command));
  }

  error() {
    const error = this.model.error(this.episode);
    if (!error) return "";
    const [type, message, traceback] = error, worker = this.episode.worker;
    const log = worker === null ? null : `${this.episode.job.name}/logs/${this.model.workers[worker][0]}-${this.model.workers[worker][1]}.log`;
    return arena.element("div", { class: "note bad" }, arena.element("p", {}, arena.element("code", {}, type), ` ${message}`),
      traceback ? arena.element("details", {}, arena.element("summary", {}, "Traceback"), arena.element("pre", {}, traceback)) : null,
      log ? arena.element("p", {}, arena.element("a", { href: arena.address(log) }, "log of its worker"), " (if it wrote one)") : null);
  }

  facts() {
    const { episode, model } = this;
    const metrics = episode.job.metrics.map((name, place) => [name, arena.number(episode.metrics[place], 6)]);
    const facts = [["return", arena.number(episode.return, 6)], ["length", episode.length === null ? "–" : `${episode.length} steps${episode.truncated ? ", truncated" : ""}`],
      ...metrics, ["seed", episode.seed ?? "–"], ["duration", arena.clock(episode.duration_s)], ["worker", model.worker(episode.worker) ?? "–"],
      ["chunk", episode.chunk ?? "–"], ["slot", episode.slot ?? "–"], ["attempt", episode.attempt],
      ...Object.entries(episode.job.tags), ...(episode.job.instruction ? [["instruction", episode.job.instruction]] : [])];
    return arena.element("dl", { class: "facts" }, ...facts.map(([name, value]) => arena.element("div", {}, arena.element("dt", {}, name), arena.element("dd", {}, String(value)))));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select")) return;
    const moves = { j: 1, ArrowDown: 1, PageDown: 1, k: -1, ArrowUp: -1, PageUp: -1 };
    const onButton = event.key === " " && event.target.matches("button, summary, a");
    if (moves[event.key]) this.onmove(moves[event.key]);
    else if (onButton || !this.player || !this.player.videos.length || !this.player.key(event)) return;
    event.preventDefault();
  }
}

arena.EpisodeView = EpisodeView;
