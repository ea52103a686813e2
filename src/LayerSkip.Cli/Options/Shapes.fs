namespace LayerSkip.Cli

open System
open LayerSkip

/// Models given by their sizes: `--shape hidden=..,layers=..`, for `bench` and `train`.
[<RequireQualifiedAccess>]
module internal Shapes =
    let private hint =
        "write --shape hidden=2048,layers=16,heads=32,kv-heads=8,intermediate=8192,vocab=128256[,tied=0][,context=2048]"

    /// The names of sizes, as they are typed.
    let private required = [ "hidden"; "layers"; "heads"; "kv-heads"; "intermediate"; "vocab" ]
    let private known = "tied" :: "context" :: required

    /// A configuration of given sizes; everything else is Llama's. `vocabulary` stands in for a vocab left out.
    let parse (vocabulary: int option) (text: string) : LlamaConfig =
        let pairs =
            text.Split(',', StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
            |> Array.map (fun part ->
                match part.Split '=' with
                | [| name; value |] when List.contains name known ->
                    match Number.tryWhole value with
                    | Some number when number >= (if name = "tied" then 0 else 1) -> name, number
                    | _ -> Inputs.usage $"--shape has {part}, it must be a whole number; {hint}"
                | _ -> Inputs.usage $"--shape has \"{part}\"; {hint}")

        match pairs |> Array.countBy fst |> Array.tryFind (fun (_, count) -> count > 1) with
        | Some(name, _) -> Inputs.usage $"--shape has {name} twice; {hint}"
        | None -> ()

        let sizes = Map.ofArray pairs

        let size name =
            match Map.tryFind name sizes |> Option.orElse (if name = "vocab" then vocabulary else None) with
            | Some value -> value
            | None -> Inputs.usage $"--shape lacks {name}; {hint}"

        let hidden, layers, heads, kvHeads = size "hidden", size "layers", size "heads", size "kv-heads"

        if heads > hidden || hidden % heads <> 0 || hidden / heads % 2 <> 0 then
            Inputs.usage $"--shape has {heads} heads, of which each needs an even part of hidden, {hidden}"

        if heads % kvHeads <> 0 then
            Inputs.usage $"--shape has kv-heads={kvHeads}, it must divide heads, {heads}"

        let vocabulary, intermediate = size "vocab", size "intermediate"
        let context = Map.tryFind "context" sizes |> Option.defaultValue 2048

        {
            LlamaConfig.Llama(vocabulary, layers, hidden, intermediate, heads, kvHeads, context) with
                TiedHead = Map.tryFind "tied" sizes <> Some 0
        }
