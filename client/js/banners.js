/** Banners over the image: conditions that the user must know of, each at most once. */

import { byId, make } from "./dom.js";

/**
 * @typedef {object} Banner
 * @property {"problem" | "notice"} level
 * @property {string} title
 * @property {string} [detail]
 * @property {{label: string, act: () => void}} [action]
 * @property {boolean} [dismissable]
 */

export class Banners {
  #list = byId("banners", HTMLElement);
  /** @type {Map<string, {key: string, element: HTMLElement}>} */
  #shown = new Map();
  /** @type {Map<string, string>} what the user has put away, until the condition ends or changes */
  #dismissed = new Map();

  /**
   * Show a banner, or change the one that is there under that name.
   *
   * @param {string} name
   * @param {Banner} banner
   */
  show(name, banner) {
    const key = `${banner.title}\n${banner.detail ?? ""}`;
    const present = this.#shown.get(name);
    if (present?.key === key || this.#dismissed.get(name) === key) return;
    const element = this.#build(name, key, banner);
    if (present) present.element.replaceWith(element);
    else this.#list.append(element);
    this.#shown.set(name, { key, element });
  }

  /** @param {string} name of a condition that has ended */
  clear(name) {
    this.#dismissed.delete(name);
    this.#shown.get(name)?.element.remove();
    this.#shown.delete(name);
  }

  /**
   * @param {string} name
   * @param {string} key
   * @param {Banner} banner
   */
  #build(name, key, banner) {
    const element = make("div", `banner ${banner.level}`);
    element.dataset.name = name;
    element.setAttribute("role", banner.level === "problem" ? "alert" : "status");
    const text = make("p");
    text.append(make("strong", "", banner.title));
    if (banner.detail) text.append(" ", banner.detail);
    element.append(text);
    const { action } = banner;
    if (action) {
      const button = make("button", "quiet", action.label);
      button.addEventListener("click", action.act);
      element.append(button);
    }
    if (banner.dismissable) {
      const button = make("button", "quiet", "Dismiss");
      button.addEventListener("click", () => {
        element.remove();
        this.#shown.delete(name);
        this.#dismissed.set(name, key);
      });
      element.append(button);
    }
    return element;
  }
}
