namespace LayerSkip

open System.Collections.Generic

/// The names of a block, over those around it.
[<Sealed; AllowNullLiteral>]
type internal JinjaScope(parent: JinjaScope) =
    let names = Dictionary<string, Value>()

    member _.Set(name: string, value: Value) : unit = names[name] <- value

    /// The innermost value of a name.
    member _.TryFind(name: string) : Value voption =
        match names.TryGetValue name with
        | true, value -> ValueSome value
        | _ when isNull parent -> ValueNone
        | _ -> parent.TryFind name
