// Small helpers. Texts come from strangers' files and only ever become text nodes.

export const $ = (id) => document.getElementById(id);

/** A new element with attributes (`text` is its text) and children. */
export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** The class of an emotion's colour: nine there are, then they come again. */
export const colour = (index) => `emotion${index % 9}`;
