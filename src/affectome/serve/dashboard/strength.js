// A slider whose middle is 0, over a track that shows what is safe. It cannot be moved beyond `low` and `high`.
export default {
  template: `
    <div class="strength-slider" :style="{ '--share': value, '--span': farthest }">
      <div class="strength-track" aria-hidden="true"></div>
      <input type="range" :min="-farthest" :max="farthest" :step="step" :value="value"
             :aria-label="label" :aria-valuetext="words" @input="move" />
    </div>`,
  props: { share: Number, low: Number, high: Number, farthest: Number, step: Number, label: String, words: String },
  data() {
    return { value: this.share };
  },
  methods: {
    move(event) {
      this.value = Math.min(Math.max(Number(event.target.value), this.low), this.high);
      event.target.value = this.value;
      this.$emit("move", this.value);
    },
    focus() {
      this.$el.querySelector("input").focus();
    },
  },
};
