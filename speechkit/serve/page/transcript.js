// The text so far: words that are final, and after them those that may still change.

export class Transcript {
  #element;
  #partial;
  #shown = 0;

  constructor(element, partial) {
    this.#element = element;
    this.#partial = partial;
  }

  clear() {
    this.#element.replaceChildren(this.#partial);
    this.#partial.textContent = "";
    this.#shown = 0;
  }

  update({ finals, partial }) {
    for (const { text } of finals.slice(this.#shown)) {
      const settled = document.createElement("span");
      settled.className = "final";
      settled.textContent = `${text} `;
      this.#partial.before(settled);
    }
    if (this.#shown < finals.length || this.#partial.textContent !== partial) {
      this.#shown = finals.length;
      this.#partial.textContent = partial;
      this.#element.scrollTop = this.#element.scrollHeight;
    }
  }
}
