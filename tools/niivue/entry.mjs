// What the report page uses of NiiVue; the bundle's global name is `niivue`.
export { DRAG_MODE, MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
