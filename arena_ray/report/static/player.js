"use strict";
// Several videos of one moment, played, paused and sought together. The longest leads; the others follow it.

class Player {
  // videos: [{path, title, frames, fps, partial}], in the order in which they are shown; without a path: an empty place.
  constructor(videos, { columns = null } = {}) {
    this.fps = Math.max(1, ...videos.map((video) => video.fps || 1));
    this.videos = [];
    this.figures = videos.map((video) => arena.element("figure", {},
      arena.element("figcaption", {}, video.title, video.partial ? arena.element("span", { class: "muted" }, " broke off") : null),
      video.path === null ? arena.element("p", { class: "empty" }, "no video") : this.makeVideo(video)));
    this.button = arena.element("button", { type: "button", class: "play", "aria-label": "Play", onclick: () => this.toggle() }, "▶");
    this.slider = arena.element("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Position", oninput: () => this.seek(Number(this.slider.value)) });
    this.clock = arena.element("output", { class: "clock" }, "0.00 s");
    this.speed = arena.element("select", { "aria-label": "Speed", onchange: () => this.setSpeed(Number(this.speed.value)) },
      ...[0.1, 0.25, 0.5, 1, 2, 4].map((rate) => arena.element("option", { value: rate, selected: rate === 1 }, `${rate}×`)));
    this.problem = arena.element("p", { class: "hint problem", hidden: true });
    const lines = columns ? Math.min(3, Math.ceil(videos.length / columns)) : null;
    const grid = arena.element("div", { class: "videos", "data-columns": columns, "data-lines": lines }, ...this.figures);
    const bar = arena.element("div", { class: "transport" }, this.button, this.slider, this.clock, this.speed);
    this.element = arena.element("div", { class: "player" }, ...(this.videos.length ? [grid, bar, this.problem] : []));
    this.playing = false;
    this.tick = this.tick.bind(this);
  }

  makeVideo(video) {
    const element = arena.element("video", { src: arena.address(video.path), preload: "auto", playsinline: true, tabindex: -1, "aria-label": video.title });
    element.muted = true;
    element.addEventListener("loadedmetadata", () => this.measure());
    element.addEventListener("error", () => {
      element.classList.add("broken");
      this.problem.hidden = false;
      this.problem.textContent = "A video cannot be loaded: is the page still in the run directory, beside its videos?";
    });
    element.addEventListener("click", () => this.toggle());
    this.videos.push(element);
    return element;
  }

  get ready() { return this.videos.filter((video) => video.readyState > 0 && Number.isFinite(video.duration)); }

  get leader() { return this.ready.reduce((most, video) => (most && most.duration >= video.duration ? most : video), null); }

  get duration() { return this.leader?.duration ?? 0; }

  get time() { return this.leader?.currentTime ?? 0; }

  measure() {
    this.slider.max = this.duration || 1;
    this.show();
  }

  toggle() { this.playing ? this.pause() : this.play(); }

  play() {
    if (!this.leader) return;
    if (this.time >= this.duration - 0.5 / this.fps) this.seek(0);
    this.playing = true;
    this.button.textContent = "❚❚";
    this.button.setAttribute("aria-label", "Pause");
    const time = this.time;
    for (const video of this.ready) if (time < video.duration - 0.01) video.play().catch(() => {});
    requestAnimationFrame(this.tick);
  }

  pause() {
    this.playing = false;
    this.button.textContent = "▶";
    this.button.setAttribute("aria-label", "Play");
    for (const video of this.videos) video.pause();
    this.align(this.time, 0.25 / this.fps);
    this.show();
  }

  seek(time) {
    const to = Math.min(Math.max(0, time), this.duration);
    this.align(to, 0);
    this.show(to);
  }

  // By a number of frames; to the middle of a frame, so that exactly that one is seen.
  step(frames) {
    if (this.playing) this.pause();
    const frame = Math.floor(this.time * this.fps + 1e-3) + frames;
    const most = Math.max(0, Math.round(this.duration * this.fps) - 1);
    this.seek((Math.min(Math.max(0, frame), most) + 0.5) / this.fps);
  }

  setSpeed(rate) { for (const video of this.videos) video.playbackRate = rate; }

  // A shorter video stays at its last frame.
  align(time, tolerance) {
    for (const video of this.ready) {
      const to = Math.min(time, Math.max(0, video.duration - 0.5 / this.fps));
      if (Math.abs(video.currentTime - to) > tolerance) video.currentTime = to;
    }
  }

  tick() {
    if (!this.playing || !this.element.isConnected) return;
    const leader = this.leader;
    if (!leader || leader.ended) return this.pause();
    for (const video of this.ready) {
      if (video === leader || video.seeking || leader.currentTime >= video.duration - 1 / this.fps) continue;
      if (Math.abs(video.currentTime - leader.currentTime) > 1.5 / this.fps) video.currentTime = leader.currentTime;
      if (video.paused && !video.ended) video.play().catch(() => {});
    }
    this.show();
    requestAnimationFrame(this.tick);
  }

  show(time = this.time) {
    this.slider.value = time;
    const frame = Math.min(Math.floor(time * this.fps + 1e-3), Math.max(0, Math.round(this.duration * this.fps) - 1));
    this.clock.textContent = `${time.toFixed(2)} / ${this.duration.toFixed(2)} s · frame ${frame}`;
    this.slider.setAttribute("aria-valuetext", `${time.toFixed(2)} seconds, frame ${frame}`);
  }

  // Keys that mean something to every player; returns whether one was used.
  key(event) {
    const step = event.shiftKey ? () => this.step(event.key === "ArrowLeft" ? -1 : 1) : () => this.seek(this.time + (event.key === "ArrowLeft" ? -1 : 1));
    const deeds = { " ": () => this.toggle(), ArrowLeft: step, ArrowRight: step, Home: () => this.seek(0), End: () => this.seek(this.duration),
      ",": () => this.step(-1), ".": () => this.step(1) };
    if (!deeds[event.key]) return false;
    deeds[event.key]();
    return true;
  }

  close() {
    this.playing = false;
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
  }
}

arena.Player = Player;
