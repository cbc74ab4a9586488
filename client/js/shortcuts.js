/** Keyboard shortcuts and the list of them. */

import { byId, make } from "./dom.js";

/** @typedef {{keys: string[], labels: string[], text: string, act: (key: string) => void}} Shortcut */

/** @param {Shortcut[]} shortcuts */
export function installShortcuts(shortcuts) {
  const dialog = byId("shortcuts", HTMLDialogElement);
  const list = byId("shortcut-list", HTMLElement);
  for (const { labels, text } of shortcuts) {
    const row = make("div");
    const keys = make("dt");
    keys.append(...labels.map((label) => make("kbd", "", label)));
    row.append(keys, make("dd", "", text));
    list.append(row);
  }
  byId("show-shortcuts", HTMLButtonElement).addEventListener("click", () => dialog.showModal());
  // a click on the backdrop has the dialog itself as its target
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (dialog.open) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (isTyping(event.target, key)) return;
    if (key === "?") {
      dialog.showModal();
    } else {
      const found = shortcuts.find((shortcut) => shortcut.keys.includes(key));
      if (!found) return;
      found.act(key);
    }
    event.preventDefault();
  });
}

/**
 * Whether a key belongs to the element that has the focus: text to a field, the space bar to a button, the arrows
 * to a choice and to the scrolling panel.
 *
 * @param {EventTarget | null} target
 * @param {string} key
 */
function isTyping(target, key) {
  if (!(target instanceof Element)) return false;
  if (target.closest("input:not([type=radio]), select, textarea")) return true;
  if (key === " ") return target.closest("button, summary, input") !== null;
  return key.startsWith("Arrow") && target.closest("input, .panel") !== null;
}
