// The list. Browsers cap heights near 33 million pixels: a longer list scrolls 1:1 near its ends and for small moves, and by
// proportion for jumps in between.
const CAP = 15e6, END = 1e6, MARGIN = 2;
let list;
class List {
  constructor(place, make, fill) {
    Object.assign(this, { place, make, fill, total: 0, active: 0, shift: 0, last: 0, rows: new Map(), spare: [] });
    addEventListener("scroll", () => this.scrolled(), { passive: true });
    addEventListener("resize", () => this.measure());
    place.addEventListener("focusin", (event) => this.entered(event.target.closest("article")));
    list = this;
  }
  measure() {
    const probe = element("article");
    this.place.append(probe);
    this.height = probe.offsetHeight || 1;
    probe.remove();
    this.whole = this.total * this.height;
    this.shown = Math.min(this.whole, CAP);
    this.place.style.height = `${this.shown}px`;
    this.jumped(this.seen());
  }
  // Tab goes on from the row that was clicked, or reached in another way.
  entered(row) {
    if (!row || row.index === this.active) return;
    this.active = row.index;
    this.draw();
  }
  setTotal(total) {
    this.total = total;
    this.active = Math.max(0, Math.min(this.active, total - 1));
    this.measure();
  }
  bar() { return $("tools").offsetHeight; }
  top() { return this.place.getBoundingClientRect().top + scrollY; }
  room() { return innerHeight - this.bar(); }
  seen() { return Math.max(0, Math.min(scrollY + this.bar() - this.top(), this.shown)); }
  toVirtual(seen) {
    if (this.whole <= CAP || seen < END) return seen;
    if (seen > CAP - END) return this.whole - (CAP - seen);
    return END + ((seen - END) * (this.whole - 2 * END)) / (CAP - 2 * END);
  }
  toSeen(virtual) {
    if (this.whole <= CAP || virtual < END) return virtual;
    if (virtual > this.whole - END) return CAP - (this.whole - virtual);
    return END + ((virtual - END) * (CAP - 2 * END)) / (this.whole - 2 * END);
  }
  jumped(seen) {
    this.shift = this.toVirtual(seen) - seen;
    this.last = seen;
    this.draw();
  }
  scrolled() {
    if (this.place.offsetParent === null) return;
    const seen = this.seen();
    if (Math.abs(seen - this.last) > 2 * innerHeight) return this.jumped(seen);
    this.last = seen;
    this.draw();
    clearTimeout(this.idle);
    const end = seen <= 0 || seen >= this.shown - this.room();
    this.idle = setTimeout(() => this.settle(), end ? 0 : 150);
  }
  // After small moves the bar stands where a jump to this place would have put it.
  settle() {
    const virtual = this.last + this.shift;
    const seen = this.toSeen(virtual);
    if (Math.abs(seen - this.last) < 1) return;
    [this.last, this.shift] = [seen, virtual - seen];
    scrollBy({ top: seen - this.seen(), behavior: "instant" });
    this.draw();
  }
  draw() {
    if (this.place.offsetParent === null) return;
    const virtual = this.last + this.shift;
    const first = Math.max(0, Math.floor(virtual / this.height) - MARGIN);
    const end = Math.min(this.total, Math.ceil((virtual + this.room()) / this.height) + MARGIN);
    for (const [index, row] of this.rows) {
      if (index >= first && index < end) continue;
      if (row.contains(document.activeElement)) this.place.focus({ preventScroll: true });
      this.rows.delete(index);
      row.remove();
      this.spare.push(row);
    }
    // The rows stand in the document in their order, one of them reached by Tab: the active one, or the first one seen.
    const reached = this.active >= first && this.active < end ? this.active : Math.min(Math.ceil(virtual / this.height), end - 1);
    let after = this.place.firstElementChild;
    for (let index = first; index < end; index++) {
      const row = this.rows.get(index) ?? this.spare.pop() ?? this.make();
      if (row === after) after = row.nextElementSibling;
      else this.place.insertBefore(row, after);
      this.rows.set(index, row);
      row.index = index;
      row.style.transform = `translateY(${index * this.height - this.shift}px)`;
      row.tabIndex = index === reached ? 0 : -1;
      row.ariaPosInSet = index + 1;
      row.ariaSetSize = this.total;
      this.fill(row, index);
    }
  }
  // Bring a row into view; where: a share of the room above it, or undefined to move as little as possible.
  show(index, where) {
    const [from, to] = [index * this.height, (index + 1) * this.height];
    const virtual = this.last + this.shift;
    let target = virtual;
    if (where !== undefined) target = from - where * this.room();
    else if (from < virtual) target = from;
    else if (to > virtual + this.room()) target = to - this.room();
    if (target === virtual && scrollY + this.bar() >= this.top()) return this.draw();
    this.goTo(target);
  }
  goTo(virtual) {
    virtual = Math.max(0, Math.min(virtual, this.whole - Math.min(this.room(), this.whole)));
    const seen = this.toSeen(virtual);
    [this.last, this.shift] = [seen, virtual - seen];
    scrollTo({ top: this.top() - this.bar() + seen, behavior: "instant" });
    this.draw();
  }
  activate(index) {
    if (!this.total) return;
    this.active = Math.max(0, Math.min(index, this.total - 1));
    this.show(this.active);
    this.rows.get(this.active)?.focus({ preventScroll: true });
  }
}
