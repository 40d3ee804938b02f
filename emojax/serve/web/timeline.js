// The conversation from left to right, a lane for each speaker, a card for each utterance.
//
// To assistive technology it is a list box of utterances in their order; one of them is in the tab
// order, arrow keys go to the others.

import { colour, element, percent } from "./dom.js";

const SPAN = 2; // columns of a card; the next speaker's card begins one column later
const PAGE = 10; // utterances that Page Up and Page Down skip

export class Timeline {
  /** @param onSelect told the index of an utterance that was selected. */
  constructor(root, onSelect) {
    [this.lanes, this.list] = root.children;
    this.onSelect = onSelect;
    this.cards = [];
    this.list.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) this.select(this.cards.indexOf(card), true);
    });
    this.list.addEventListener("keydown", (event) => {
      const goal = this.#goal(event);
      if (goal === undefined) return;
      event.preventDefault();
      this.select(goal, true);
    });
  }

  /** Draws a conversation that nothing has been said of yet. */
  show(conversation) {
    this.conversation = conversation;
    const names = [...new Set(conversation.speaker)];
    this.lane = conversation.speaker.map((name) => names.indexOf(name));
    this.lanes.replaceChildren(...names.map((name) => element("div", { text: name, dir: "auto" })));
    this.list.setAttribute("aria-label", `Utterances of conversation ${conversation.id}`);
    const starts = placed(this.lane, names.length);
    this.cards = conversation.speaker.map((_, i) => {
      const card = element(
        "div", { class: "card", role: "option", tabindex: -1, "aria-selected": false },
        element("span", { class: "said", text: "…" }),
        element("span", { class: "how", text: `${i + 1}` }),
        element("span", { text: conversation.transcript[i], dir: "auto" }),
        element("span", { class: "unseen", text: `said by ${conversation.speaker[i]}` }),
      );
      card.style.gridRow = this.lane[i] + 1;
      card.style.gridColumn = `${starts[i]} / span ${SPAN}`;
      return card;
    });
    this.selected = undefined;
    this.list.replaceChildren(...this.cards);
    this.list.parentElement.scrollTo(0, 0);
  }

  /** Fills in what was predicted: for each utterance {label, name, confidence, mistake}. */
  paint(decisions) {
    const { speaker, label } = this.conversation;
    decisions.forEach(({ name, index, confidence, mistake }, i) => {
      const card = this.cards[i];
      const [said, how, , unseen] = card.children;
      said.textContent = name;
      how.textContent = `${i + 1} · ${percent(confidence)}`;
      card.className = `card ${colour(index)}${mistake ? " mistake" : ""}`;
      card.style.setProperty("--share", confidence.toFixed(3));
      const known = mistake ? `, not ${label[i]} as in the file` : "";
      unseen.textContent = `said by ${speaker[i]}${known}`;
    });
  }

  /** @param focus whether the keyboard goes there too. */
  select(index, focus = false) {
    if (this.selected !== undefined) {
      const before = this.cards[this.selected];
      before.setAttribute("aria-selected", false);
      before.tabIndex = -1;
    }
    this.selected = index;
    const card = this.cards[index];
    card.setAttribute("aria-selected", true);
    card.tabIndex = 0;
    if (focus) {
      card.focus({ preventScroll: true });
      card.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    this.onSelect(index);
  }

  #goal({ key, altKey, ctrlKey, metaKey }) {
    if (altKey || ctrlKey || metaKey) return undefined;
    const last = this.cards.length - 1;
    const within = (index) => Math.min(Math.max(index, 0), last);
    const goals = {
      ArrowRight: () => within(this.selected + 1),
      ArrowLeft: () => within(this.selected - 1),
      PageDown: () => within(this.selected + PAGE),
      PageUp: () => within(this.selected - PAGE),
      Home: () => 0,
      End: () => last,
      ArrowDown: () => this.#beside(1),
      ArrowUp: () => this.#beside(-1),
    };
    return goals[key]?.();
  }

  /** The utterance nearest in time in the lane below (1) or above (-1), or the same. */
  #beside(step) {
    const lane = this.lane[this.selected] + step;
    let nearest = this.selected;
    let distance = Infinity;
    this.lane.forEach((each, i) => {
      const far = Math.abs(i - this.selected);
      if (each === lane && far < distance) [nearest, distance] = [i, far];
    });
    return nearest;
  }
}

/** First column of each card: after the one before it, and free in its lane. */
function placed(lanes, count) {
  const free = Array(count).fill(1);
  let next = 1;
  return lanes.map((lane) => {
    const start = Math.max(next, free[lane]);
    free[lane] = start + SPAN;
    next = start + 1;
    return start;
  });
}
