// What the cells of every notebook here need: the model, and pictures where the cells run. In Jupyter and Polyglot Notebooks a
// picture comes beneath its cell; build.fsx stores it there; a plain script says what would be seen.
module Notebook

open System
open System.IO
open System.Reflection
open LayerSkip

/// The default model, or the one that LAYERSKIP_NOTEBOOK_MODEL names: a Hugging Face folder or a .gguf file.
let model: string =
    match Environment.GetEnvironmentVariable "LAYERSKIP_NOTEBOOK_MODEL" with
    | null
    | "" -> Path.Combine(__SOURCE_DIRECTORY__, "..", "models", "stories-10m")
    | path -> path

/// Comes before and after a picture in what build.fsx reads; U+241F, the sign for a unit separator.
let private mark = "␟"

/// .NET Interactive's way to show a value, found by name: a script has no reference to it.
let private display =
    lazy
        (let find (name: string) =
            Type.GetType $"Microsoft.DotNet.Interactive.{name}, Microsoft.DotNet.Interactive"

         match find "KernelInvocationContext", find "KernelInvocationContextExtensions" with
         | null, _
         | _, null -> None
         | context, extensions ->
             let current = context.GetProperty("Current", BindingFlags.Static ||| BindingFlags.Public)
             Some(current, extensions.GetMethod "DisplayAs"))

/// Shows a picture as SVG: it needs no script, so GitHub shows it too. `Plots.save` writes one to move in.
let show (picture: Picture) : unit =
    let svg = Plots.svg picture

    match display.Value with
    | Some(current, displayAs) ->
        let given = [| current.GetValue null; box svg; box "image/svg+xml" |]
        let others = Array.create (displayAs.GetParameters().Length - given.Length) Type.Missing
        displayAs.Invoke(null, Array.append given others) |> ignore
    | None when Environment.GetEnvironmentVariable "LAYERSKIP_NOTEBOOK_BUILD" = "1" ->
        Console.Write $"{mark}{svg}{mark}"
    | None -> printfn $"[picture: {picture.Title}]"
