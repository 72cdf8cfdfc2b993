// Before the first paint: sets the chosen theme; without a choice, the system's.
(() => {
  try {
    const theme = localStorage.getItem("zonda.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden: the system's theme.
  }
})();
