module LayerSkip.Tests.Support

open System
open System.IO
open Expecto
open TorchSharp

/// Native tensors that live. Those that an earlier test left to the collector go first: it may take them at any time.
let liveTensors () : int64 =
    GC.Collect()
    GC.WaitForPendingFinalizers()
    torch.Tensor.TotalCount

let rec private findRoot (folder: string) =
    if File.Exists(Path.Combine(folder, "LayerSkip.FSharp.sln")) then
        folder
    else
        findRoot (Path.GetDirectoryName folder)

/// The root of the checkout.
let root = findRoot System.AppContext.BaseDirectory

/// The reference data beside the checkout, which a fresh clone lacks.
let private data = Path.GetFullPath(Path.Combine(root, "..", "shared", "data"))

let sharedPath (parts: string list) = Path.Combine(Array.ofList (data :: parts))

/// A test over `../shared/data`; says `skipped` where a file that it reads is not there.
let sharedTest (name: string) (path: string list) (body: string -> unit) =
    let file = sharedPath path

    testCase name (fun () ->
        if File.Exists file || Directory.Exists file then
            body file
        else
            skiptest $"""no ../shared/data/{String.concat "/" path}""")
