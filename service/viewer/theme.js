// Dark or light: as the system has it, or as the person chose on this device.

const NAME = "comel-theme";

export function startTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem(NAME);
  const show = () => {
    const dark = (chosen() ?? (system.matches ? "dark" : "light")) === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    localStorage.setItem(NAME, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}
