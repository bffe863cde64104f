// Stands in for the zarr reader, which fetches from the network: a report makes no request.
const refuse = () => {
  throw new Error("zarr stores are left out of this build: a report makes no request");
};
export const get = refuse;
export const open = refuse;
export const root = refuse;
export const slice = refuse;
export class FetchStore {
  constructor() {
    refuse();
  }
}
