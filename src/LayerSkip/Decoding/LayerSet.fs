namespace LayerSkip

open System

/// Layers of a model that draft while the others are left out (Draft & Verify, arXiv 2309.08168; SWIFT, arXiv 2410.06916). Layers
/// count from 1. The first is always among them: drafts and verification share what it makes of a token, as far as no layer is
/// left out.
[<CustomEquality; NoComparison>]
type LayerSet = private {
    /// [layers]
    Kept: bool[]
} with

    /// How many layers the model has.
    member this.Layers = this.Kept.Length

    /// Those that draft, from the first to the last.
    member this.KeptLayers: int list = [
        for index in 0 .. this.Kept.Length - 1 do
            if this.Kept[index] then
                index + 1
    ]

    member this.Count = this.KeptLayers.Length

    /// How many are left out.
    member this.Skipped = this.Layers - this.Count

    /// The layers up to the first that is left out, but not the last: the verification continues from what they leave.
    member this.Prefix: ExitLayer =
        let whole = this.Kept |> Seq.takeWhile id |> Seq.length
        ExitLayer.TryCreate(this.Layers, min whole (this.Layers - 1)) |> Check.getOrRaise

    /// Layers without a gap after the first `prefix`: of each run its first layer, counted from 0, and how many there are.
    member internal this.RunsAfter(prefix: int) : struct (int * int) list =
        let extend runs layer =
            match runs with
            | struct (first, count) :: rest when first + count = layer - 1 ->
                struct (first, count + 1) :: rest
            | _ -> struct (layer - 1, 1) :: runs

        this.KeptLayers
        |> List.filter (fun layer -> layer > prefix)
        |> List.fold extend []
        |> List.rev

    /// As options and files spell it: "1-10,15,30".
    override this.ToString() =
        this.RunsAfter 0
        |> List.map (fun (struct (first, count)) ->
            if count = 1 then
                string (first + 1)
            else
                $"{first + 1}-{first + count}")
        |> String.concat ","

    override this.Equals other =
        match other with
        | :? LayerSet as other -> this.Kept = other.Kept
        | _ -> false

    override this.GetHashCode() = hash this.Kept

[<RequireQualifiedAccess>]
module LayerSet =
    let private option = "layers-kept"

    /// These layers of a model of `layers`, in any order. Errors: a model of one layer, a layer that it has not, the first left out.
    let ofLayers (layers: int) (kept: int list) : Result<LayerSet, LayerSkipError list> =
        let inside layer = layer >= 1 && layer <= layers

        let faults = [
            yield! ExitLayer.TryCreate(layers, 1) |> Check.faults

            for layer in List.distinct kept do
                yield!
                    Check.inRange
                        (inside layer)
                        option
                        $"layer {layer}"
                        $"{LayerSkipError.oneTo layers}: the model has {layers} layers"

            yield!
                Check.inRange
                    (List.contains 1 kept)
                    option
                    "a set without layer 1"
                    "one with it: the first layer is never left out"
        ]

        Check.all faults { Kept = Array.init layers (fun index -> List.contains (index + 1) kept) }

    /// Every layer: its drafts are the whole model's own.
    let all (layers: int) : Result<LayerSet, LayerSkipError list> = ofLayers layers [ 1..layers ]

    /// Layers and ranges of them with commas between: "1-10,15,30".
    let tryParse (layers: int) (text: string) : Result<LayerSet, LayerSkipError list> =
        let bad = Check.outOfRange option text "layers and ranges of them with commas between, as 1-10,15,30"

        let range (item: string) =
            match item.Split '-' |> Array.map Number.tryWhole with
            | [| Some layer |] -> Some [ layer ]
            // A range of numbers beyond any model is not spelled out.
            | [| Some first; Some last |] when first <= last && last <= max 1 layers -> Some [ first..last ]
            | [| Some first; Some last |] when first <= last -> Some [ first; last ]
            | _ -> None

        match
            text.Split(',', StringSplitOptions.TrimEntries)
            |> Array.map range
            |> List.ofArray
            |> Check.every
        with
        | Some ranges -> List.concat ranges |> ofLayers layers
        | None -> bad
