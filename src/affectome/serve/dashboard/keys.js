document.addEventListener("keydown", (event) => {
  const click = (key) => document.querySelector(`[data-key="${key}"]:not([disabled])`)?.click();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    click("send");
    return;
  }
  if (event.key === "Escape" && !document.querySelector(".q-dialog__inner, .q-menu")) click("stop");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea") || document.querySelector(".q-dialog__inner")) return;
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector(".pick input")?.focus();
  }
  if (event.key === "d") click("dark");
  if (event.key === "?") click("help");
});

// Browsers lend navigator.clipboard to https and localhost alone; labs often serve a plain address.
window.copyTextOf = async (id) => {
  const source = document.getElementById(id);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  Quasar.Notify.create({ message: "Copied", timeout: 1200, position: "bottom" });
};
