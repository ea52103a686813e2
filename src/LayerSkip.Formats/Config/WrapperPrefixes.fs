namespace LayerSkip

open System

/// Names of a model's tensors as training frameworks spell them: with the prefix of a wrapper that was saved too
/// (`torch.compile`, data parallelism), or without `model.`, as a decoder saved without its head has them.
[<RequireQualifiedAccess>]
module internal WrapperPrefixes =
    let private wrappers = [ "_orig_mod."; "module." ]

    let rec private unwrapped (name: string) : string =
        match wrappers |> List.tryFind (fun prefix -> name.StartsWith(prefix, StringComparison.Ordinal)) with
        | Some prefix -> unwrapped (name.Substring prefix.Length)
        | None -> name.Replace("._orig_mod.", ".")

    let private parts = [ "embed_tokens."; "layers."; "norm." ]

    let private whole (name: string) : string =
        let name = unwrapped name

        if parts |> List.exists (fun part -> name.StartsWith(part, StringComparison.Ordinal)) then
            "model." + name
        else
            name

    /// Hugging Face's names; where another tensor has the name already, a tensor keeps its own, for the loader to
    /// report. Shapes and values stay; the order too.
    let huggingFace (stored: StoredTensor list) : StoredTensor list =
        let taken = stored |> List.countBy (fun tensor -> whole tensor.Name) |> Map.ofList

        stored
        |> List.map (fun tensor ->
            let name = whole tensor.Name
            if taken[name] = 1 then
                { tensor with Name = name }
            else
                tensor)
