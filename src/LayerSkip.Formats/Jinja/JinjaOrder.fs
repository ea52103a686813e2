namespace LayerSkip

open System.Runtime.CompilerServices

/// Which values are equal, and which comes first, as Python has it.
[<RequireQualifiedAccess>]
module internal JinjaOrder =
    /// Python's ==.
    let rec equal (work: Work) (a: Value) (b: Value) : bool =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        work.Spend 1

        match a, b with
        | Value.Undefined _, Value.Undefined _
        | Value.None, Value.None -> true
        | Value.Text a, Value.Text b -> System.String.Equals(a.Text, b.Text, System.StringComparison.Ordinal)
        | Value.List a, Value.List b
        | Value.Tuple a, Value.Tuple b -> a.Length = b.Length && Array.forall2 (equal work) a b
        | Value.Dict a, Value.Dict b ->
            let same name value =
                match Value.tryFind name b with
                | ValueSome other -> equal work value other
                | ValueNone -> false

            a.Keys.Length = b.Keys.Length && Array.forall2 same a.Keys a.Values
        | Value.Range(start, stop, step), Value.Range(start', stop', step') ->
            equal work (Value.List(Value.range start stop step)) (Value.List(Value.range start' stop' step'))
        | Value.View _, Value.View _ ->
            Value.fail "views of dictionaries are not compared here; compare lists"
        | Value.Namespace a, Value.Namespace b -> obj.ReferenceEquals(a, b)
        | Value.Generator a, Value.Generator b -> obj.ReferenceEquals(a, b)
        | Value.Loop a, Value.Loop b -> obj.ReferenceEquals(a, b)
        | Value.Function a, Value.Function b -> obj.ReferenceEquals(a, b)
        | _ ->
            match Value.tryWhole a, Value.tryWhole b with
            | ValueSome a, ValueSome b -> a = b
            | _ ->
                match Value.tryNumber a, Value.tryNumber b with
                | ValueSome a, ValueSome b -> a = b
                | _ -> false

    // Of code points: surrogates stand for the last of them, though U+E000 is the larger code unit.
    let private compareTexts (a: string) (b: string) : int =
        let common =
            System.MemoryExtensions.CommonPrefixLength(
                System.MemoryExtensions.AsSpan a,
                System.MemoryExtensions.AsSpan b
            )

        if common = a.Length || common = b.Length then
            compare a.Length b.Length
        else
            let rank (unit: char) =
                if System.Char.IsSurrogate unit then
                    int unit + 0x10000
                else
                    int unit

            compare (rank a[common]) (rank b[common])

    /// Python's order: below 0, 0 or above; a fault where there is none. NaN is neither, which gives None.
    let rec tryCompare (work: Work) (a: Value) (b: Value) : int option =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        work.Spend 1

        match a, b with
        | Value.Text a, Value.Text b -> Some(compareTexts a.Text b.Text)
        | Value.List a, Value.List b
        | Value.Tuple a, Value.Tuple b ->
            match Seq.zip a b |> Seq.tryFind (fun (a, b) -> not (equal work a b)) with
            | Some(a, b) -> tryCompare work a b
            | None -> Some(compare a.Length b.Length)
        | Value.Undefined what, _
        | _, Value.Undefined what -> Value.fail what
        | _ ->
            match Value.tryWhole a, Value.tryWhole b with
            | ValueSome a, ValueSome b -> Some(compare a b)
            | _ ->
                match Value.tryNumber a, Value.tryNumber b with
                | ValueSome a, ValueSome b when System.Double.IsNaN a || System.Double.IsNaN b -> None
                | ValueSome a, ValueSome b -> Some(compare a b)
                | _ -> Value.fail $"a {Value.typeName a} and a {Value.typeName b} have no order"
