//! What `openapi.json` says of plans is what the grid answers.

use axum::http::StatusCode;
use coppice_portal::api::{ApplyRequest, Configuration, PlanRequest};
use coppice_state::token::Scope;
use serde_json::{Map, Value, json};

use crate::rounds::bundle;
use crate::world::{Answer, World};

/// A reader of the few words of JSON Schema that the description uses. An unknown word is an error: it would be a
/// rule that nobody checks.
struct Schemas(Value);

impl Schemas {
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(path) => {
                let name = path.strip_prefix("#/components/schemas/").unwrap();
                self.resolve(&self.0["components"]["schemas"][name])
            }
            None => schema,
        }
    }

    /// The properties that an object of `schema` may have.
    fn properties<'a>(&'a self, schema: &'a Value) -> Map<String, Value> {
        let schema = self.resolve(schema);
        let mut all = schema["properties"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for part in schema["allOf"].as_array().into_iter().flatten() {
            all.extend(self.properties(part));
        }
        all
    }

    /// Why `value` is not of `schema`.
    fn wrong(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        let rules = schema
            .as_object()
            .ok_or(format!("{at}: no schema: {schema}"))?;
        for (rule, arg) in rules {
            match rule.as_str() {
                "description" | "format" | "default" | "minimum" | "example" => {}
                "type" => self.of_type(arg, value, at)?,
                "enum" => {
                    let among = arg.as_array().is_some_and(|words| words.contains(value));
                    among
                        .then_some(())
                        .ok_or(format!("{at}: {value} is none of {arg}"))?;
                }
                "oneOf" | "anyOf" => {
                    let tries: Vec<String> = arg
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter_map(|one| self.wrong(one, value, at).err())
                        .collect();
                    let fit = arg.as_array().unwrap().len() - tries.len();
                    let enough = fit == 1 || (rule == "anyOf" && fit > 1);
                    enough
                        .then_some(())
                        .ok_or(format!("{at}: {fit} of {rule} fit: {tries:?}"))?;
                }
                "allOf" => {
                    for part in arg.as_array().unwrap() {
                        let part = self.resolve(part);
                        for (name, inner) in self.properties(part) {
                            self.property(part, &name, &inner, value, at)?;
                        }
                    }
                }
                "properties" => {
                    for (name, inner) in arg.as_object().unwrap() {
                        self.property(schema, name, inner, value, at)?;
                    }
                }
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.wrong(arg, item, &format!("{at}[{n}]"))?;
                    }
                }
                "uniqueItems" | "required" | "propertyNames" => {}
                // What has a name of its own is judged by `properties`, and what has none by `untold`.
                "additionalProperties" if arg.is_boolean() => {}
                "additionalProperties" => {
                    for (name, item) in value.as_object().into_iter().flatten() {
                        self.wrong(arg, item, &format!("{at}.{name}"))?;
                    }
                }
                other => return Err(format!("{at}: the rule {other:?} is not checked")),
            }
        }
        Ok(())
    }

    fn property(
        &self,
        schema: &Value,
        name: &str,
        inner: &Value,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let required = schema["required"].as_array();
        let required = required.is_some_and(|names| names.contains(&json!(name)));
        match value.get(name) {
            Some(value) => self.wrong(inner, value, &format!("{at}.{name}")),
            None if required => Err(format!("{at}: {name} is missing")),
            None => Ok(()),
        }
    }

    fn of_type(&self, wanted: &Value, value: &Value, at: &str) -> Result<(), String> {
        let is = |word: &str| match word {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            _ => false,
        };
        let words = wanted.as_array().cloned();
        let words = words.unwrap_or_else(|| vec![wanted.clone()]);
        let fits = words.iter().filter_map(Value::as_str).any(is);
        fits.then_some(())
            .ok_or(format!("{at}: {value} is no {wanted}"))
    }

    /// Names in `value` that its schema does not tell of, anywhere within.
    fn untold(&self, schema: &Value, value: &Value, at: &str, into: &mut Vec<String>) {
        let schema = self.resolve(schema);
        for list in ["oneOf", "anyOf"] {
            for one in schema[list].as_array().into_iter().flatten() {
                if self.wrong(one, value, at).is_ok() {
                    return self.untold(one, value, at, into);
                }
            }
        }
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            self.untold(&schema["items"], item, &format!("{at}[{n}]"), into);
        }
        let told = self.properties(schema);
        for (name, item) in value.as_object().into_iter().flatten() {
            let inner = told.get(name).unwrap_or(&schema["additionalProperties"]);
            if !inner.is_object() {
                into.push(format!("{at}.{name}"));
            } else {
                self.untold(inner, item, &format!("{at}.{name}"), into);
            }
        }
    }

    /// Nothing in `value` is otherwise than the component `name` says, and nothing is left out there.
    fn hold(&self, name: &str, value: &Value) {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        assert_eq!(self.wrong(&schema, value, name), Ok(()));
        let mut untold = Vec::new();
        self.untold(&schema, value, name, &mut untold);
        untold.retain(|path| !path.contains(".diagnostics[") && !path.contains(".desired."));
        assert_eq!(untold, [""; 0], "{name} does not tell of these");
    }
}

async fn schemas(world: &World) -> Schemas {
    Schemas(world.get(Scope::Viewer, "/openapi.json").await)
}

fn value(answer: &Answer) -> Value {
    answer.json(StatusCode::OK)
}

#[tokio::test]
async fn plans_are_what_the_description_says() {
    let world = World::new();
    let schemas = schemas(&world).await;
    let ask = PlanRequest {
        bundle: bundle(3, ""),
        targets: Default::default(),
        save: true,
        lose: Default::default(),
    };
    schemas.hold("PlanRequest", &serde_json::to_value(&ask).unwrap());
    // Without an image: findings, waits, and desktops that cannot be made.
    let absent = value(&world.post(Scope::Operator, "/plans", &ask).await);
    assert!(absent["document"]["findings"][0].is_object(), "{absent}");
    schemas.hold("PlanResponse", &absent);
    world.import_tiny();
    let apply = ApplyRequest {
        configuration: Configuration::Bundle(bundle(3, "")),
        approve: Default::default(),
        max_interrupted: None,
        expect_plan: None,
    };
    schemas.hold("ApplyRequest", &serde_json::to_value(&apply).unwrap());
    let applied = value(&world.post(Scope::Operator, "/apply", &apply).await);
    schemas.hold("ApplyResponse", &applied);
    world.settle(0);
    // Fewer desktops, and gates.
    let fewer = PlanRequest {
        bundle: bundle(0, ""),
        ..ask
    };
    let fewer = value(&world.post(Scope::Operator, "/plans", &fewer).await);
    assert!(fewer["document"]["gates"][0].is_object(), "{fewer}");
    schemas.hold("PlanResponse", &fewer);
}

#[tokio::test]
async fn drift_and_explanations_are_what_the_description_says() {
    let world = World::new();
    let schemas = schemas(&world).await;
    world.import_tiny();
    let apply = ApplyRequest {
        configuration: Configuration::Bundle(bundle(1, "")),
        approve: Default::default(),
        max_interrupted: None,
        expect_plan: None,
    };
    value(&world.post(Scope::Operator, "/apply", &apply).await);
    world.settle(0);
    world.lose_overlay();
    let drift: Value = world.get(Scope::Viewer, "/drift").await;
    assert!(drift["drift"][0].is_object(), "{drift}");
    schemas.hold("DriftReport", &drift);
    let why: Value = world.get(Scope::Viewer, "/explain/pool.lab").await;
    schemas.hold("Explanation", &why);
}
