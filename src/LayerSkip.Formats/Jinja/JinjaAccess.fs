namespace LayerSkip

/// x.name and x[key], with what jinja2 does where there is none.
[<RequireQualifiedAccess>]
module internal JinjaAccess =
    let private absent (value: Value) (name: string) : Value =
        Value.Undefined $"a {Value.typeName value} has no {name}"

    let private ofLoop (work: Work) (loop: Loop) (name: string) : Value voption =
        let count = loop.Items.Length
        let item at missing =
            if at >= 0 && at < count then
                loop.Items[at]
            else
                Value.Undefined missing

        match name with
        | "index" -> ValueSome(Value.whole (loop.Index + 1))
        | "index0" -> ValueSome(Value.whole loop.Index)
        | "revindex" -> ValueSome(Value.whole (count - loop.Index))
        | "revindex0" -> ValueSome(Value.whole (count - loop.Index - 1))
        | "first" -> ValueSome(Value.Bool(loop.Index = 0))
        | "last" -> ValueSome(Value.Bool(loop.Index = count - 1))
        | "length" -> ValueSome(Value.whole count)
        | "depth" -> ValueSome(Value.whole (loop.Depth + 1))
        | "depth0" -> ValueSome(Value.whole loop.Depth)
        | "previtem" -> ValueSome(item (loop.Index - 1) "there is no item before the first")
        | "nextitem" -> ValueSome(item (loop.Index + 1) "there is no item after the last")
        | "cycle" ->
            ValueSome(
                Value.Function {
                    Name = name
                    Invoke =
                        fun given ->
                            match given.Positional with
                            | [] -> Value.fail "loop.cycle needs values"
                            | values -> values[loop.Index % values.Length]
                }
            )
        | "changed" ->
            ValueSome(
                Value.Function {
                    Name = name
                    Invoke =
                        fun given ->
                            let isSame =
                                match loop.Seen with
                                | Some seen ->
                                    seen.Length = given.Positional.Length
                                    && List.forall2 (JinjaOrder.equal work) seen given.Positional
                                | None -> false

                            loop.Seen <- Some given.Positional
                            Value.Bool(not isSame)
                }
            )
        | _ -> ValueNone

    // What Python's objects have under the name itself.
    let private tryAttribute (work: Work) (value: Value) (name: string) : Value voption =
        match value with
        | Value.Undefined what -> Value.fail what
        | Value.Loop loop -> ofLoop work loop name
        | Value.Namespace names ->
            match names.TryGetValue name with
            | true, value -> ValueSome value
            | _ -> ValueNone
        | _ when name.StartsWith "__" -> Value.fail $"{name} is kept from templates"
        | _ -> JinjaMethods.tryFind work value name

    /// x.name: a method or an attribute, else the item of that name, else undefined.
    let attribute (work: Work) (value: Value) (name: string) : Value =
        match tryAttribute work value name with
        | ValueSome found -> found
        | ValueNone ->
            match JinjaOperators.tryItem value (Value.text name) with
            | ValueSome found -> found
            | ValueNone -> absent value name

    /// x[key]: the item, else the method or attribute of that name, else undefined.
    let item (work: Work) (value: Value) (key: Value) : Value =
        match JinjaOperators.tryItem value key with
        | ValueSome found -> found
        | ValueNone ->
            match key with
            | Value.Text name ->
                match tryAttribute work value name.Text with
                | ValueSome found -> found
                | ValueNone -> absent value name.Text
            | Value.Undefined _ -> absent value "item under an undefined key"
            | _ -> absent value "such item"

    /// What a filter's attribute argument names, "a.b" or a number: the item, and the item of that.
    let path (work: Work) (attribute: Value) : Value -> Value =
        let parts =
            match attribute with
            | Value.Text text -> [
                for part in text.Text.Split '.' do
                    match System.Int32.TryParse part with
                    | true, index when Seq.forall System.Char.IsAsciiDigit part -> Value.whole index
                    | _ -> Value.text part
              ]
            | other -> [ other ]

        fun value -> List.fold (item work) value parts
