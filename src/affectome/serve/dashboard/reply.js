// A reply, token by token. Text is only ever set as text, as models may write anything, HTML included.
export default {
  template: `<div class="reply" tabindex="0" role="group" :aria-label="label"></div>`,
  props: { label: String },
  created() {
    this.tokens = [];
    this.block = null;
    this.column = null;
    this.cursor = -1;
  },
  mounted() {
    const box = this.$el;
    box.addEventListener("pointerover", (event) => this.point(this.tokens.indexOf(event.target)));
    box.addEventListener("pointerleave", () => this.point(-1));
    box.addEventListener("blur", () => this.point(-1));
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !this.tokens.length) return;
      event.preventDefault();
      this.point(Math.min(Math.max(this.cursor + step, 0), this.tokens.length - 1));
      this.tokens[this.cursor].scrollIntoView({ block: "nearest" });
    });
  },
  unmounted() {
    this.point(-1);
  },
  methods: {
    clear() {
      this.point(-1);
      this.tokens = [];
      this.block = null;
      this.$el.replaceChildren();
    },
    append(texts) {
      const box = this.$el;
      const following = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      for (const text of texts) {
        const token = document.createElement("span");
        token.textContent = text;
        this.tokens.push(token);
        // A block for each paragraph, as browsers lay a whole block out again for every token that joins it.
        if (!this.block) box.append((this.block = document.createElement("div")));
        this.block.append(token);
        if (text.endsWith("\n")) this.block = null;
      }
      if (following) box.scrollTop = box.scrollHeight;
    },
    values(first, rows) {
      rows.forEach((row, i) => {
        const token = this.tokens[first + i];
        if (!token) return;
        token.row = row;
        this.shade(token);
      });
    },
    // `column` of the values is shown, or none; `limit` is where colours end.
    paint(column, name, limit) {
      this.$el.style.setProperty("--limit", limit);
      if (column !== this.column) {
        this.column = column;
        this.tokens.forEach(this.shade);
      }
      this.name = name;
    },
    shade(token) {
      const value = this.column === null || !token.row ? null : token.row[this.column];
      token.className = value === null || value === undefined ? "" : value < 0 ? "below" : "above";
      if (token.className) token.style.setProperty("--value", Math.abs(value));
    },
    point(index) {
      this.tokens[this.cursor]?.classList.remove("cursor");
      this.tip?.remove();
      this.tip = null;
      this.cursor = index;
      const token = this.tokens[index];
      if (!token) return;
      token.classList.add("cursor");
      const value = this.column === null ? null : token.row?.[this.column];
      const read = value === null || value === undefined ? "no value" : `${this.name} ${signed(value)}`;
      this.tip = document.createElement("div");
      this.tip.className = "token-tip";
      this.tip.setAttribute("role", "status");
      this.tip.textContent = `token ${index + 1}: ${read}`;
      document.body.append(this.tip);
      const place = token.getClientRects()[0] ?? token.getBoundingClientRect();
      const width = this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - width - 4))}px`;
      this.tip.style.top = `${Math.max(4, place.top - this.tip.offsetHeight - 6)}px`;
    },
  },
};

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(3);
}
