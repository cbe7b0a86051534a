// Emotions on two principal components, both axes to the same scale. Labels that would overlap are left out.
const MARGIN = { left: 14, right: 14, top: 14, bottom: 14 };
const LETTER = 6.1;
const REACH = 26;
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

export default {
  template: `
    <div class="emotion-map">
      <svg :viewBox="'0 0 ' + width + ' ' + height" :width="width" :height="height" role="application" tabindex="0"
           :aria-label="'Map of ' + points.length + ' emotions: arrow keys go from one to the next, Enter picks it'"
           @pointermove="near = nearest($event)" @pointerleave="near = null" @click="pick"
           @blur="near = null" @keydown="key"
           :style="{ cursor: near === null ? 'default' : 'pointer' }">
        <line class="axis" :x1="0" :x2="width" :y1="at(0, 0)[1]" :y2="at(0, 0)[1]" />
        <line class="axis" :y1="0" :y2="height" :x1="at(0, 0)[0]" :x2="at(0, 0)[0]" />
        <line v-if="mix" class="arm" :x1="at(0, 0)[0]" :y1="at(0, 0)[1]" :x2="mixed[0]" :y2="mixed[1]" />
        <circle v-for="(point, i) in placed" :key="point.name" :cx="point.x" :cy="point.y"
                :r="point.picked || i === near ? 5 : 3" :class="['dot', { picked: point.picked, near: i === near }]" />
        <text v-for="label in labels" :key="label.name" :x="label.x" :y="label.y"
              :class="{ picked: label.picked, near: label.near }">{{ label.name }}</text>
        <g v-if="mix" :class="['mix', { outside }]" :transform="'translate(' + mixed[0] + ' ' + mixed[1] + ')'">
          <circle r="8" /><path d="M-4 0H4M0-4V4" />
        </g>
      </svg>
      <div class="spoken" aria-live="polite">{{ spoken }}</div>
    </div>`,
  props: { points: Array, picked: Array, mix: Array },
  data() {
    return { width: 320, near: null };
  },
  mounted() {
    this.observer = new ResizeObserver(([entry]) => {
      this.width = Math.max(200, Math.floor(entry.contentRect.width));
    });
    this.observer.observe(this.$el);
  },
  unmounted() {
    this.observer.disconnect();
  },
  computed: {
    box() {
      const xs = [0, ...this.points.map((p) => p.x)];
      const ys = [0, ...this.points.map((p) => p.y)];
      const pad = 0.06 * Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 1e-9);
      return {
        left: Math.min(...xs) - pad,
        right: Math.max(...xs) + pad,
        bottom: Math.min(...ys) - pad,
        top: Math.max(...ys) + pad,
      };
    },
    scale() {
      const { left, right, bottom, top } = this.box;
      const inside = this.width - MARGIN.left - MARGIN.right;
      return Math.min(inside / (right - left), (1.1 * inside) / (top - bottom));
    },
    height() {
      return Math.max(0.8 * this.width, (this.box.top - this.box.bottom) * this.scale + MARGIN.top + MARGIN.bottom);
    },
    placed() {
      const picked = new Set(this.picked);
      return this.points.map((p) => {
        const [x, y] = this.at(p.x, p.y);
        return { name: p.name, x, y, picked: picked.has(p.name) };
      });
    },
    labels() {
      const taken = [];
      const free = (b) => taken.every((o) => b[0] > o[2] || b[2] < o[0] || b[1] > o[3] || b[3] < o[1]);
      const order = this.placed.map((p, i) => ({ ...p, near: i === this.near }));
      order.sort((a, b) => b.near - a.near || b.picked - a.picked);
      const labels = [];
      for (const p of order) {
        const long = p.name.length * LETTER;
        const x = p.x + 8 + long > this.width ? p.x - 8 - long : p.x + 8;
        const b = [x - 2, p.y - 8, x + long + 2, p.y + 6];
        if (!free(b) && !p.near) continue;
        taken.push(b);
        labels.push({ ...p, x, y: p.y + 4 });
      }
      return labels;
    },
    spoken() {
      if (this.near === null) return "";
      const { name, picked } = this.placed[this.near];
      return picked ? name + ", picked" : name;
    },
    mixed() {
      const [x, y] = this.at(...this.mix);
      return [Math.min(Math.max(x, 9), this.width - 9), Math.min(Math.max(y, 9), this.height - 9)];
    },
    outside() {
      const [x, y] = this.at(...this.mix);
      return x !== this.mixed[0] || y !== this.mixed[1];
    },
  },
  methods: {
    at(x, y) {
      const { left, right, bottom, top } = this.box;
      return [
        this.width / 2 + (x - (left + right) / 2) * this.scale,
        this.height / 2 - (y - (top + bottom) / 2) * this.scale,
      ];
    },
    nearest(event) {
      const frame = this.$el.querySelector("svg").getBoundingClientRect();
      const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
      let best = null;
      let least = REACH;
      this.placed.forEach((p, i) => {
        const distance = Math.hypot(p.x - x, p.y - y);
        if (distance < least) [best, least] = [i, distance];
      });
      return best;
    },
    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in ARROWS) this.near = this.beside(...ARROWS[event.key]);
      else if ((event.key === "Enter" || event.key === " ") && this.near !== null)
        this.$emit("pick", this.points[this.near].name);
      else return;
      event.preventDefault();
    },
    // The emotion to go to in a direction: the nearest, at first from the middle. What is aside counts three times, with
    // which all 171 of the demo can be reached; with less some cannot.
    beside(right, down) {
      const [x, y] = this.near === null ? this.at(0, 0) : [this.placed[this.near].x, this.placed[this.near].y];
      let best = this.near;
      let least = Infinity;
      this.placed.forEach((p, i) => {
        const along = (p.x - x) * right + (p.y - y) * down;
        const aside = Math.abs((p.x - x) * down) + Math.abs((p.y - y) * right);
        if (i !== this.near && along > 0 && along + 3 * aside < least) [best, least] = [i, along + 3 * aside];
      });
      return best;
    },
    pick(event) {
      const found = this.nearest(event);
      if (found !== null) this.$emit("pick", this.points[found].name);
    },
  },
};
