// What was said of one utterance: every probability, and what each modality contributed.

import { MODALITIES } from "./check.js";
import { $, colour, element, percent } from "./dom.js";

export class Detail {
  /** @param own whether the modalities' own decisions were trained, and so mean anything. */
  constructor(labels, own) {
    this.labels = labels;
    this.own = own;
    $("by-itself").textContent = own ? "By itself" : "Here";
    this.emotions = labels.map((name, index) => {
      const bar = element("div", { class: colour(index) });
      const row = line(name, bar, "track");
      $("probabilities").tBodies[0].append(row);
      return { row, bar, value: row.insertCell() };
    });
    this.modalities = MODALITIES.map((name) => {
      const bar = element("div");
      const row = line(name, bar, "track signed");
      $("contributions").tBodies[0].append(row);
      return { row, bar, value: row.insertCell(), alone: row.insertCell() };
    });
  }

  /**
   * @param view {conversation, index, decision, probability [C], contribution [M] or null, alone
   *   [M][C] or null, seen: for each modality whether the model saw it here}.
   */
  show({ conversation, index, decision, probability, contribution, alone, seen }) {
    const { speaker, transcript, label } = conversation;
    $("detail-title").replaceChildren(
      `Utterance ${index + 1}, `, element("bdi", { text: speaker[index] }),
    );
    $("transcript").textContent = transcript[index] || "(no transcript)";
    this.#decide(decision, label[index]);
    this.emotions.forEach(({ row, bar, value }, i) => {
      row.className = i === decision.index ? "decided" : "";
      bar.style.setProperty("--share", probability[i].toFixed(4));
      value.textContent = (100 * probability[i]).toFixed(1);
    });
    // Until they are computed anew, contributions stay as they were, dimmed; but not another's.
    const same = this.shown?.conversation === conversation && this.shown.index === index;
    const explained = contribution ?? (same ? this.shown.contribution : [0, 0, 0]);
    this.shown = { conversation, index, contribution: explained };
    $("contributions").setAttribute("aria-busy", contribution === null);
    this.modalities.forEach((shown, m) => {
      shown.alone.textContent = seen[m] ? this.#most(alone?.[m]) : "missing";
      this.#explain(shown, m, explained);
    });
  }

  #decide({ name, confidence }, known) {
    const parts = [element("strong", { text: name }), `, ${percent(confidence)} sure. `];
    if (known === null) parts.push("The file does not say what it is.");
    else if (known === name) parts.push("So says the file.");
    else parts.push("✗ The file says ", element("strong", { text: known }), ".");
    $("decision").replaceChildren("The model says ", ...parts);
  }

  #explain({ bar, value }, m, contribution) {
    const fall = contribution[m];
    const largest = Math.max(1, ...contribution.map(Math.abs));
    bar.style.setProperty("--share", (Math.abs(fall) / largest).toFixed(4));
    bar.parentElement.classList.toggle("against", fall < 0);
    value.textContent = signed(fall);
  }

  #most(probability) {
    if (!this.own) return "seen";
    if (!probability) return "–";
    const index = probability.indexOf(Math.max(...probability));
    return `${this.labels[index]}, ${percent(probability[index])}`;
  }
}

function line(name, bar, track) {
  const row = element("tr", {}, element("th", { scope: "row", text: name }));
  row.append(element("td", { class: "bars" }, element("div", { class: track }, bar)));
  return row;
}

function signed(value) {
  const text = Math.abs(value).toFixed(2);
  if (text === "0.00") return text;
  return value < 0 ? `−${text}` : `+${text}`;
}
