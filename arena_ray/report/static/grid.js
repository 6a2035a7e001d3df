"use strict";
// A grid of any number of cards, of which only those exist that are near the window. Videos load when they are seen.

class Grid {
  // make(item, place) returns a card; open(place) is called for Enter and clicks.
  constructor(target, { make, open, minWidth, height, gap = 10 }) {
    Object.assign(this, { target, make, open, minWidth, height, gap, items: [], cards: new Map(), current: 0, columns: 1 });
    this.watcher = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: "150px" });
    this.waiting = new Map();
    addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(target);
    target.addEventListener("keydown", (event) => this.key(event));
    target.addEventListener("click", (event) => {
      const card = event.target.closest("[data-place]");
      if (card) this.open(Number(card.dataset.place));
    });
  }

  // With keep, what is seen already stays as it is, and only moves: new items do not make its videos load again.
  show(items, { keep = false } = {}) {
    const focused = keep && this.target.contains(document.activeElement), before = this.items[this.current];
    this.items = items;
    if (keep) {
      const place = items.indexOf(before);
      this.current = place >= 0 ? place : Math.min(this.current, Math.max(0, items.length - 1));
    } else {
      this.current = 0;
      this.clear();
    }
    this.layout();
    if (focused) this.focus(this.current);
  }

  setShape(minWidth, height) {
    Object.assign(this, { minWidth, height });
    this.clear();
  }

  clear() {
    for (const card of this.cards.values()) this.drop(card);
    this.cards.clear();
  }

  layout() {
    const width = this.target.clientWidth;
    if (!width) return;
    const columns = Math.max(1, Math.floor((width + this.gap) / (this.minWidth + this.gap)));
    if (columns !== this.columns || width !== this.width) {
      Object.assign(this, { columns, width });
      this.clear();
    }
    const lines = Math.ceil(this.items.length / columns);
    this.target.style.height = `${Math.max(0, lines * (this.height + this.gap) - this.gap)}px`;
    this.render();
  }

  later() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.render(); });
  }

  render() {
    const line = this.height + this.gap, top = -this.target.getBoundingClientRect().top, margin = innerHeight / 2;
    const first = Math.max(0, Math.floor((top - margin) / line) * this.columns);
    const end = Math.min(this.items.length, Math.ceil((top + innerHeight + margin) / line) * this.columns);
    const wanted = new Set(this.items.slice(first, end)).add(this.items[this.current]);
    for (const [item, card] of this.cards)
      if (!wanted.has(item)) {
        this.drop(card);
        this.cards.delete(item);
      }
    const fresh = document.createDocumentFragment();
    const settle = (place) => {
      const card = this.cards.get(this.items[place]);
      if (card && (Number(card.dataset.place) !== place || card.ariaSetSize !== String(this.items.length))) this.put(card, place);
      return card;
    };
    for (let place = first; place < end; place++) if (!settle(place)) fresh.append(this.card(place));
    settle(this.current);
    this.target.append(fresh);
  }

  card(place) {
    const item = this.items[place], card = this.make(item, place);
    card.setAttribute("role", "listitem");
    this.put(card, place);
    this.cards.set(item, card);
    for (const video of card.querySelectorAll("video")) this.watcher.observe(video);
    return card;
  }

  put(card, place) {
    const width = (this.width - this.gap * (this.columns - 1)) / this.columns;
    const [line, column] = [Math.floor(place / this.columns), place % this.columns];
    card.dataset.place = place;
    card.setAttribute("aria-setsize", this.items.length);
    card.setAttribute("aria-posinset", place + 1);
    card.tabIndex = place === this.current ? 0 : -1;
    card.style.cssText = `width:${width}px;height:${this.height}px;transform:translate(${column * (width + this.gap)}px,${line * (this.height + this.gap)}px)`;
  }

  drop(card) {
    for (const video of card.querySelectorAll("video")) {
      this.watcher.unobserve(video);
      clearTimeout(this.waiting.get(video));
      this.waiting.delete(video);
      if (video.hasAttribute("src")) {
        video.removeAttribute("src");
        video.load();  // Gives its decoder and connection back.
      }
    }
    card.remove();
  }

  // A video that is only scrolled past is not loaded.
  seen(entries) {
    for (const { target: video, isIntersecting } of entries) {
      clearTimeout(this.waiting.get(video));
      this.waiting.delete(video);
      if (isIntersecting && !video.hasAttribute("src"))
        this.waiting.set(video, setTimeout(() => { video.preload = "metadata"; video.src = video.dataset.src; }, 180));
    }
  }

  focus(place) {
    if (!this.items.length) return;
    const to = Math.min(Math.max(0, place), this.items.length - 1), before = this.cards.get(this.items[this.current]);
    if (before) before.tabIndex = -1;
    this.current = to;
    const line = this.height + this.gap, top = Math.floor(to / this.columns) * line + this.target.getBoundingClientRect().top;
    if (top < 130) scrollBy(0, top - 130);
    else if (top + line > innerHeight) scrollBy(0, top + line - innerHeight + 10);
    this.render();
    const card = this.cards.get(this.items[to]);
    if (card) {
      card.tabIndex = 0;
      card.focus({ preventScroll: true });
    }
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(innerHeight / (this.height + this.gap)) - 1) * this.columns;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page,
      Home: -this.items.length, End: this.items.length };
    if (event.key in moves) this.focus(this.current + moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.open(this.current);
    else return;
    event.preventDefault();
  }
}

arena.Grid = Grid;
