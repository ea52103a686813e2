namespace LayerSkip

open System

/// The part of a run's cells that one process computes, as jobs of an array do: `Index` of `Count`, counted from 1.
[<Struct>]
type Shard = private {
    index: int
    count: int
} with

    member this.Index = this.index
    member this.Count = this.count
    /// As options have it: "2/4".
    override this.ToString() = $"{this.index}/{this.count}"

[<RequireQualifiedAccess>]
module Shard =
    /// All cells.
    let whole: Shard = { index = 1; count = 1 }

    /// Reads "i/n"; an error (`OutOfRange`) unless 1 <= i <= n.
    let tryParse (text: string) : Result<Shard, LayerSkipError list> =
        let digits (part: string) =
            match
                Int32.TryParse(
                    part,
                    Globalization.NumberStyles.None,
                    Globalization.CultureInfo.InvariantCulture
                )
            with
            | true, value -> Some value
            | _ -> None

        match text.Split('/') |> Array.map digits with
        | [| Some index; Some count |] when 1 <= index && index <= count ->
            Ok { index = index; count = count }
        | _ -> Check.outOfRange "shard" $"\"{text}\"" "i/n with 1 <= i <= n, as 2/4"

    /// Whether this part computes a cell, counted from 0: every `Count`-th is its.
    let owns (cell: int) (shard: Shard) : bool = cell % shard.count = shard.index - 1

    /// The cells that this part computes of a run of so many.
    let cells (count: int) (shard: Shard) : int list = [ shard.index - 1 .. shard.count .. count - 1 ]
